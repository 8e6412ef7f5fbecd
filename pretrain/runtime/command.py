"""How a command ends: its exit code, and a last line on standard error that says why."""

import functools
import multiprocessing.queues
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from pretrain.runtime import distributed
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import DataError
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted
from pretrain.runtime.reading import CheckpointError

# Input that cannot be used: the text says the way out, and trying again is no help
FAULTS = (ConfigError, DataError, CheckpointError, FloatingPointError)

# What an error of any type may say: the way out
WAYS_OUT = {
    r"DataLoader worker \(|[Ss]hared memory": "a loader process has ended; its own messages are "
    "above. Where memory or /dev/shm is full (docker run --shm-size=16g gives more of that), take "
    "fewer loader processes: DATA.NUM_WORKERS, in fine-tuning DATALOADER.NUM_WORKERS",
    r"out of memory|can't allocate|^MemoryError": "take fewer or smaller images at a time: "
    "SOLVER.BATCH_SIZE_PER_GPU, in fine-tuning SOLVER.IMS_PER_BATCH",
}

Main = Callable[[Sequence[str] | None], int | None]


def with_exit_code(main: Main) -> Main:
    """``main``, a command's function of its arguments, that returns the exit code of the process.

    Its own or 0; 1 for what may pass (a disk's error, another process that is gone) and for errors
    of our own, 2 for input that cannot be used, 75 interrupted and saved, 130 interrupted. The
    process group is left. File names that are no text are printed with escapes.
    """

    @functools.wraps(main)
    def call(arguments: Sequence[str] | None = None) -> int:
        sys.stdout.reconfigure(errors="backslashreplace")
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_at_lost_batch)
        try:
            with distributed.peers_answer():
                return main(arguments) or 0
        except (*FAULTS, OSError, distributed.PeerLost) as error:
            print("error:", " ".join(_lines(str(error))), file=sys.stderr)
            return 2 if isinstance(error, FAULTS) else 1
        except Interrupted:
            print("interrupted: the same command with --resume goes on", file=sys.stderr)
            return EXIT_CODE
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            traceback.print_exc()
            print("error:", _in_a_line(error), file=sys.stderr)
            return 1
        finally:
            distributed.shutdown()

    return call


def _in_a_line(error: Exception) -> str:
    """Type, text and way out."""
    said = " ".join(_lines("".join(traceback.format_exception_only(error))))
    return "; ".join([said, *(way for sign, way in WAYS_OUT.items() if re.search(sign, said))])


def _lines(text: str) -> list[str]:
    """Those of an error's text; of one of a loader process, which has its traceback, the last."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines()]
    return lines[-1:] if "Original Traceback (most recent call last):" in lines else lines


def _end_at_lost_batch(error: Exception, _: object) -> None:
    """In a loader process that cannot hand over a batch: the run would wait for it for ever."""
    print(f"a loader process cannot hand over a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)
