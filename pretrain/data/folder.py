"""Images as a list of names with their bytes; here from a folder, searched recursively."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pretrain.runtime.files import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Images:
    """Names in a fixed order. A source of images adds where they are and how they are read."""

    def __init__(self, root: Path, names: Iterable[bytes]) -> None:
        self.root = root
        # One block, and not a million objects: reading their counts would copy them to each worker
        self._names = np.array(names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Path of an image below the folder that it is in, or was in before it went to a shard."""
        return os.fsdecode(self._names[index])

    def sha256(self) -> str:
        """Of all names, in order."""
        return hashlib.sha256(b"\n".join(self._names.tolist())).hexdigest()


class Folder(Images):
    """All images below a folder, links followed, sorted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, [os.fsencode(name) for name in list_images(root)])

    def place(self, index: int) -> str:
        """Where an image is, for people."""
        return str(self.root / self.name(index))

    def read_bytes(self, index: int) -> bytes:
        """The file's content. Raises OSError."""
        return (self.root / self.name(index)).read_bytes()


def list_images(root: str | Path) -> list[str]:
    """Paths relative to ``root`` of all images below it, links followed, sorted."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; name a folder of images (DATA.ROOT), or write a small one: "
            "python -m benchmarks.scenes OUT"
        )
    images = [
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, onerror=_raise, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS)
    ]
    if not images:
        raise DataError(f"{root}: no image below it (looked for {', '.join(EXTENSIONS)})")
    return sorted(images)


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error
