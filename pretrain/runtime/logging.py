"""Lines that a script can parse, a bar on a terminal only, metrics to jsonl and TensorBoard."""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tqdm import tqdm

from pretrain.runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """An error of writing does not know its file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


class _BesideBar(logging.Handler):
    """Lines on standard error that do not run into a bar on the same terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log that cannot be written is an error, and not a traceback at every line."""

    def handleError(self, record: logging.LogRecord) -> None:
        with _naming(self.baseFilename):
            raise


def setup_logger(name: str, folder: str | Path | None = None, rank: int = 0) -> logging.Logger:
    """A logger to standard error and ``folder``/log.txt on rank 0; errors only on other ranks."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    logger.propagate = False
    for handler in list(logger.handlers):  # of a run before this one, in the same process
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_BesideBar())
    if folder is not None and rank == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
        logger.addHandler(_LogFile(Path(folder) / "log.txt", errors="backslashreplace"))
    form = logging.Formatter(f"[%(asctime)s{f' rank {rank}' if rank else ''}] %(message)s")
    for handler in logger.handlers:
        handler.setFormatter(form)
    return logger


def progress_bar(total: int, done: int = 0, unit: str = "step") -> tqdm:
    """A bar on a terminal, silent elsewhere."""
    # None: tqdm looks whether it writes to a terminal
    return tqdm(total=total, initial=done, unit=unit, disable=None, dynamic_ncols=True)


def _record(line: bytes) -> tuple[int, bytes] | None:
    """Its step and the line itself; None for a damaged one."""
    try:
        return int(json.loads(line)["step"]), line
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


class MetricWriter:
    """Scalars by step, to ``folder``/metrics.jsonl (one object a line) and to TensorBoard.

    Figures of matplotlib to the latter.
    """

    def __init__(self, folder: str | Path, last_step: int = 0) -> None:
        """Lines of ``folder``/metrics.jsonl after ``last_step`` belong to a lost run: they go.

        So do damaged ones, as a power cut leaves them; the log says how many.
        """
        from torch.utils.tensorboard import SummaryWriter

        path = Path(folder) / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        records = list(filter(None, map(_record, lines)))
        if len(records) < len(lines):
            lost = len(lines) - len(records)
            logging.getLogger("pretrain").warning(f"{path}: {lost} damaged lines are left out")
        kept = [line for step, line in records if step <= last_step]
        write_bytes(path, b"".join(line + b"\n" for line in kept))
        self._file: IO[str] = open(path, "a", buffering=1)
        self._tensorboard = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line; a value that JSON cannot hold (NaN, infinity) becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with _naming(self._file.name):
            self._file.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def write_figure(self, step: int, name: str, figure: "Figure") -> None:
        """To TensorBoard only."""
        self._tensorboard.add_figure(name, figure, step)

    def close(self) -> None:
        """Flush both."""
        with _naming(self._file.name):
            self._file.close()
            self._tensorboard.close()
