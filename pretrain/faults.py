"""What the data and the numbers do to a run: unreadable images, losses that are not finite."""

import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path

from pretrain.data.folder import DataError, Images
from pretrain.run import Run
from pretrain.runtime import distributed
from pretrain.runtime.files import write_bytes
from pretrain.statistics import Step


class SkippedSteps:
    """Tells of updates left out and lists their images in skipped_steps.txt; stops after too many.

    In fp16 a finite loss with infinite gradients is the scaler's search for its scale, until that
    falls below 1.
    """

    def __init__(self, run: Run, images: Images, logger: logging.Logger) -> None:
        self.path = run.folder / _of_rank("skipped_steps.txt")
        self.images, self.logger = images, logger
        self.in_a_row = 0
        lines = _read_lines(self.path)
        # What came after the checkpoint comes again
        self.lines = [line for line in lines if int(line.split("\t")[0]) <= run.step]

    def __call__(self, run: Run, step: Step | None) -> None:
        """Take in one step. Raises FloatingPointError after SOLVER.MAX_SKIPPED_STEPS in a row."""
        if step is None:
            return
        if not self.is_fault(run, step):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        number, loss = step.values["step"], step.values["loss"]
        self.lines += [f"{number}\t{self.images.name(index)}" for index in step.images]
        _write_lines(self.path, self.lines)
        self.logger.warning(
            f"step {number} skipped ({self.in_a_row} in a row): the loss is {loss:.6g}, a gradient "
            f"is not finite; its images are listed in {self.path}"
        )
        if self.in_a_row >= run.cfg.SOLVER.MAX_SKIPPED_STEPS:
            raise FloatingPointError(
                f"step {number}: {self.in_a_row} steps in a row had a loss or gradient of NaN or "
                f"infinity (loss {loss:.6g}), and nothing was saved since; lower SOLVER.BASE_LR, "
                f"or look at the images that {self.path} lists; --resume goes on from the last "
                "checkpoint"
            )

    def is_fault(self, run: Run, step: Step) -> bool:
        """Whether the step was left out for another reason than fp16's scale."""
        searching = run.scaler.is_enabled() and math.isfinite(step.values["loss"])
        return step.skipped and not (searching and run.scaler.get_scale() >= 1)


class BadImages:
    """Counts the unreadable images, lists them in bad_images.txt, stops when they are too many.

    Ranks meet different images of an epoch: at its end, and before a save, they tell each other.
    """

    def __init__(self, run: Run, images: Images, logger: logging.Logger) -> None:
        self.path = run.folder / "bad_images.txt"
        self.images, self.logger = images, logger
        listed = set(_read_lines(self.path))
        self.agreed: set[str] = set().union(*distributed.all_gather(listed))
        self.met: set[str] = set()  # by this rank since all agreed
        self.allowed = int(run.cfg.DATA.MAX_BAD_SHARE * len(images))

    @property
    def share(self) -> float:
        """This rank's part of the number of all bad images, which is the sum over the ranks."""
        return len(self.agreed) / distributed.world_size() + len(self.met)

    def add(self, indices: list[int]) -> None:
        """Take in the bad images of a batch."""
        new = set(map(self.images.name, indices)) - self.agreed - self.met
        self.met |= new
        self._tell(new)

    def agree(self) -> None:
        """Take in what all ranks have met. All must call it."""
        met = set().union(*distributed.all_gather(self.met)) - self.agreed
        new, self.met = met - self.met, set()
        self.agreed |= met
        self._tell(new)

    def __call__(self, run: Run, step: Step | None) -> None:
        """Raises DataError, on all ranks, when there are more than the allowed share."""
        if run.micro_step % run.plan.length == 0:
            self.agree()
        count = max(len(self.agreed), step.bad_images if step else 0)
        if count > self.allowed:
            raise DataError(
                f"{self.images.root}: {count} images cannot be read, more than the {self.allowed} "
                f"that DATA.MAX_BAD_SHARE allows: mend or remove those that {self.path} lists, or "
                "raise the share"
            )

    def _tell(self, new: set[str]) -> None:
        if not new or distributed.rank():
            return
        known = self.agreed | self.met
        for name in sorted(new):
            self.logger.warning(f"{self.images.root / name}: cannot be read, replaced")
        self.logger.warning(f"{len(known)} images so far could not be read: {self.path}")
        _write_lines(self.path, sorted(known))


def _read_lines(path: Path) -> list[str]:
    """A list of file names, which need not be text; none where there is no file."""
    return os.fsdecode(path.read_bytes()).splitlines() if path.exists() else []


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_bytes(path, os.fsencode("".join(f"{line}\n" for line in lines)))


def _of_rank(name: str) -> str:
    """``name.txt`` on rank 0, ``name.rank3.txt`` on rank 3."""
    rank = distributed.rank()
    return name.replace(".", f".rank{rank}.") if rank else name
