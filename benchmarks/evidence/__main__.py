"""``python -m benchmarks.evidence replicate|page``: the scenes benchmark.

replicate: scenes, pretraining and fine-tunings of one seed. page: SCENES.md and SCENES.svg.
"""

import signal
import sys

from benchmarks.evidence import page, replicate
from benchmarks.scenes.generate import ScenesError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.interrupt import EXIT_CODE

COMMANDS = {"replicate": replicate.main, "page": page.main}


def main(words: list[str]) -> int:
    """Returns what the command does; 2 for input that cannot be used, 75 for an interruption."""
    if not words or words[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return COMMANDS[words[0]](words[1:])
    except (ConfigError, ScenesError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # outside of the stages: while scenes are drawn, of which none stay
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_CODE


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that it tidies up
    sys.exit(main(sys.argv[1:]))
