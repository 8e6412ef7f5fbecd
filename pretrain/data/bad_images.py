"""Images that cannot be read: counted, listed, and when they are too many the end of the run."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from pretrain.data.folder import DataError, Images
from pretrain.runtime import distributed
from pretrain.runtime.files import write_bytes

ESCAPES = {"\n": r"\n", "\\": r"\\"}  # in a list of a name per line
UNESCAPED = {escape: sign for sign, escape in ESCAPES.items()}


class BadImages:
    """The unreadable images of a run, listed in ``folder``/bad_images.txt.

    Ranks meet different images of an epoch, so they tell each other at its end and before a save.
    share: of all images; more unreadable ones stop the run.
    """

    def __init__(self, folder: Path, images: Images, share: float, logger: logging.Logger) -> None:
        self.path = folder / "bad_images.txt"
        self.images, self.logger = images, logger
        listed = set(read_names(self.path))
        self.agreed: set[str] = set().union(*distributed.all_gather(listed))
        self.met: set[str] = set()  # by this rank since all agreed
        self.allowed = int(share * len(images))

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

    def require_few(self, count: int) -> None:
        """Raise DataError for too many: ``count``, which all ranks know, or those agreed on."""
        count = max(len(self.agreed), count)
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
        write_names(self.path, sorted(known))


def read_names(path: Path) -> list[str]:
    """A list of file names, which need not be text; none where there is no file."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [re.sub(r"\\[n\\]", lambda m: UNESCAPED[m[0]], os.fsdecode(line)) for line in lines]


def write_names(path: Path, names: Iterable[str]) -> None:
    """A line for each name, atomically; a line feed in one is written as \\n, a backslash twice."""
    lines = (re.sub(r"[\n\\]", lambda m: ESCAPES[m[0]], name) for name in names)
    write_bytes(path, b"".join(os.fsencode(line) + b"\n" for line in lines))
