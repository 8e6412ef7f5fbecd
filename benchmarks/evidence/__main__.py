"""``python -m benchmarks.evidence replicate|page``: the scenes benchmark.

replicate: scenes, pretraining and fine-tunings of one seed. page: SCENES.md and SCENES.svg.
"""

import sys

from benchmarks.evidence import page, replicate
from benchmarks.evidence.rows import RESULTS
from benchmarks.scenes.generate import ScenesError
from pretrain.runtime.config import ConfigError


def main(words: list[str]) -> int:
    """Returns what the command does; 2 for input that cannot be used."""
    try:
        if words[:1] == ["replicate"]:
            return replicate.main(words[1:])
        if words == ["page"]:
            page.write(RESULTS, page.SCENES_MD)
            return 0
    except (ConfigError, ScenesError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
