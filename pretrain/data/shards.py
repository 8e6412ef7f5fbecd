"""Images in tar shards, as webdataset has them, read by position from local disk.

webdataset reads shards as a stream. A run here takes any image at any time, which is what makes it
resume in mid-epoch exactly; so shards are read by offset.
"""

import errno
import io
import logging
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pretrain.data.folder import (
    EXTENSIONS,
    DataError,
    Folder,
    Images,
    choose,
    is_hidden,
    list_files,
)
from pretrain.runtime import distributed
from pretrain.runtime.logging import progress_bar

INDEX = "index.npz"  # what is where, written beside the shards; without it they are searched
ARRAYS = ("shards", "bytes", "names", "shard", "offset", "size", "remark")  # in the index
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Shards(Images):
    """All images in ``*.tar`` files below a folder: by shard, and in its order."""

    def __init__(self, root: Path, shards: list[str]) -> None:
        index = load_index(root, shards)
        if index is None:
            _tell(f"{root}: has no {INDEX} of these very shards, searching them")
            index = make_index(root, shards)
        super().__init__(root, index["names"], str(index["remark"]))
        self._shards = [root / os.fsdecode(name) for name in index["shards"]]
        self._shard, self._offset, self._size = (index[key] for key in ("shard", "offset", "size"))

    def path(self, index: int) -> Path:
        """The shard that holds an image."""
        return self._shards[self._shard[index]]

    def place(self, index: int) -> str:
        """Where an image is, for people."""
        return f"{self.path(index)}:{self.name(index)}"

    def read_bytes(self, index: int) -> bytes:
        """The file's content. Raises OSError."""
        # Opened anew each time: a process may use more shards than it may hold open files
        with open(self.path(index), "rb") as file:
            data = os.pread(file.fileno(), self._size[index], self._offset[index])
        if len(data) != self._size[index]:
            raise OSError(errno.EIO, "The shard ends before the image does", self.place(index))
        return data


def open_images(root: str | Path) -> Images:
    """The images of a folder: those in the shards below it if there are any, else all below it.

    Raises DataError where there are other images than in the shards, or compressed shards.
    """
    root = Path(root)
    files = list_files(root)
    shards = [name for name in files if name.endswith(".tar") and not is_hidden(name)]
    if not shards:
        return Folder(root, files)
    for name in files:
        if name.lower().endswith(EXTENSIONS + COMPRESSED) and not is_hidden(name):
            raise DataError(
                f"{root}: holds shards ({shards[0]}), and {name} beside them would be left out: "
                "move it away; decompress a shard to a .tar"
            )
    return Shards(root, shards)


def make_index(root: Path, shards: list[str]) -> dict[str, np.ndarray]:
    """Search shards, paths below ``root``. Raises DataError for a damaged or compressed one."""
    members = [
        (number, *member)
        for number, shard in enumerate(shards)
        for member in _members(root / shard)
    ]
    images, remark = choose([f"{shards[number]}/{name}" for number, name, *_ in members])
    if not images:
        raise DataError(
            f"{root}: no image in its {len(shards)} shards; {remark or 'they are empty'}"
        )
    shard, names, offset, size = zip(*(members[index] for index in images), strict=True)
    sizes = np.array([(root / name).stat().st_size for name in shards])
    shards, names = (np.array([os.fsencode(name) for name in each]) for each in (shards, names))
    arrays = shards, sizes, names, *map(np.array, (shard, offset, size, remark))
    return dict(zip(ARRAYS, arrays, strict=True))


def load_index(root: Path, shards: list[str]) -> dict[str, np.ndarray] | None:
    """The index beside the shards; None without one, and where it is not of these very shards."""
    try:
        with np.load(root / INDEX, allow_pickle=False) as file:
            index = {name: file[name] for name in ARRAYS}
    except Exception:  # of any type, for damaged zip files and for arrays in them
        return None
    known = dict(zip(map(os.fsdecode, index["shards"]), index["bytes"].tolist(), strict=True))
    found = {name: (root / name).stat().st_size for name in shards}
    return index if known == found else None


def write_shards(source: str | Path, out: str | Path, max_bytes: float = 1e9) -> int:
    """Write the images below ``source`` into shards of about ``max_bytes`` in a new folder.

    Every image keeps its name, its bytes and its place in the order, so that a run on the shards is
    the one on the folder. Returns the number of shards. Raises DataError where ``out`` exists;
    OSError when the disk is full.
    """
    images, out = Folder(Path(source)), Path(out)
    if out.exists():
        raise DataError(f"{out}: exists; remove it or name another folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
    partial.mkdir(parents=True)
    try:
        _write_tars(images, partial, max_bytes)
        index = make_index(partial, sorted(path.name for path in partial.iterdir()))
        np.savez(partial / INDEX, **index)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # gigabytes that nothing reads
        raise
    return len(index["shards"])


def _write_tars(images: Images, folder: Path, max_bytes: float) -> None:
    """shard-000000.tar and so on; a new one begins once ``max_bytes`` are reached."""
    first = shard = 0
    with progress_bar(len(images), unit="image") as bar:
        while first < len(images):
            with tarfile.open(folder / f"shard-{shard:06d}.tar", "w") as tar:
                while first < len(images) and tar.offset < max_bytes:
                    data = images.read_bytes(first)
                    member = tarfile.TarInfo(images.name(first))
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    first += 1
                    bar.update()
            shard += 1


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the files in an uncompressed tar, or in several joined to one file.

    A link is no file of its own: its name ends in " (link)".
    """
    try:
        with open(path, "rb") as file:
            while True:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        if not member.isdir():
                            link = "" if member.isfile() else " (link)"
                            yield member.name + link, member.offset_data, member.size
                # tarfile takes a damaged header for the end, which is a block of zeros
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it is cut or damaged")
                while not (block := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
                    if not block:
                        return
                file.seek(-len(block), os.SEEK_CUR)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as an uncompressed tar file ({error}); copy it again, or "
            "unpack it and write it anew"
        ) from error


def _tell(line: str) -> None:
    """On rank 0, and on standard error too where no log is set up yet: a run's comes later."""
    if distributed.rank() == 0:
        logging.getLogger("pretrain").warning(line)
