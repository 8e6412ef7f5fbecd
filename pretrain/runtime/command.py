"""How a command ends: its exit code, and a last line on standard error that says why."""

import functools
import sys
from collections.abc import Callable, Sequence

from pretrain.runtime import distributed
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import DataError
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted
from pretrain.runtime.reading import CheckpointError

# Input that cannot be used: the text says the way out, and trying again is no help
FAULTS = (ConfigError, DataError, CheckpointError, FloatingPointError)

Main = Callable[[Sequence[str] | None], int | None]


def with_exit_code(main: Main) -> Main:
    """``main``, a command's function of its arguments, that returns the exit code of the process.

    Its own or 0; 1 for what may pass (a disk's error, another process that is gone), 2 for input
    that cannot be used, 75 interrupted and saved, 130 interrupted. The process group is left.
    """

    @functools.wraps(main)
    def call(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments) or 0
        except (*FAULTS, OSError, distributed.PeerLost) as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2 if isinstance(error, FAULTS) else 1
        except Interrupted:
            print("interrupted: the same command with --resume goes on", file=sys.stderr)
            return EXIT_CODE
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:
            distributed.shutdown()

    return call
