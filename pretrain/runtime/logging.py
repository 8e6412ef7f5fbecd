"""Lines that a script can parse, a bar on a terminal only, metrics to jsonl and TensorBoard."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    import numpy as np


class _BesideBar(logging.StreamHandler):
    """Lines that do not run into a bar on the same terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=self.stream)


def setup_logger(name: str, folder: str | Path | None = None, rank: int = 0) -> logging.Logger:
    """A logger to standard error and ``folder``/log.txt on rank 0; errors only on other ranks."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    form = logging.Formatter(f"[%(asctime)s{f' rank {rank}' if rank else ''}] %(message)s")
    handlers: list[logging.Handler] = [_BesideBar(sys.stderr)]
    if folder is not None and rank == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(folder) / "log.txt"))
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    return logger


def progress_bar(total: int, done: int = 0, unit: str = "step") -> tqdm:
    """A bar on a terminal, silent elsewhere."""
    return tqdm(
        total=total, initial=done, unit=unit, disable=not sys.stderr.isatty(), dynamic_ncols=True
    )


class MetricWriter:
    """Scalars by step, to ``folder``/metrics.jsonl (one object a line) and to TensorBoard.

    Images to the latter.
    """

    def __init__(self, folder: str | Path, last_step: int = 0) -> None:
        """Lines of ``folder``/metrics.jsonl after ``last_step`` belong to a lost run: they go."""
        from torch.utils.tensorboard import SummaryWriter

        path = Path(folder) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= last_step]
        path.write_text("".join(kept))
        self._file: IO[str] = open(path, "a", buffering=1)
        self._tensorboard = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line; a value that JSON cannot hold (NaN, infinity) becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, image: "np.ndarray") -> None:
        """RGB uint8 (H,W,3), to TensorBoard only."""
        self._tensorboard.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        self._tensorboard.close()


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
