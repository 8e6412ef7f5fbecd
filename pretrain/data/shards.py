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

from pretrain.data.folder import EXTENSIONS, DataError, Folder, Images
from pretrain.runtime import distributed
from pretrain.runtime.logging import progress_bar

INDEX = "index.npz"  # what is where, written beside the shards; without it they are searched
ARRAYS = ("shards", "bytes", "names", "shard", "offset", "size")  # in the index
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Shards(Images):
    """All images in the ``*.tar`` files of a folder: by shard, and in its order."""

    def __init__(self, root: Path) -> None:
        index = load_index(root)
        if index is None:
            _tell(f"{root}: has no {INDEX} of these very shards, searching them")
            index = make_index(root)
        super().__init__(root, index["names"])
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
    """The images of a folder: those in its shards where it has some, else all below it.

    Raises DataError where it has other images than in its shards, or compressed shards.
    """
    root = Path(root)
    shards = list_shards(root)
    if not shards:
        return Folder(root)
    for path in sorted(root.iterdir()):
        if path.is_dir() or path.name.lower().endswith(EXTENSIONS + COMPRESSED):
            raise DataError(
                f"{root}: holds shards ({shards[0]}), and {path.name} beside them would be left "
                "out: move it away; decompress a shard to a .tar"
            )
    return Shards(root)


def list_shards(root: Path) -> list[str]:
    """Names of the shards in a folder, sorted."""
    return sorted(path.name for path in root.glob("*.tar") if not path.is_dir())


def make_index(root: Path) -> dict[str, np.ndarray]:
    """Search all shards of a folder. Raises DataError for one that is damaged or compressed."""
    shards, members, others = list_shards(root), [], 0
    for number, shard in enumerate(shards):
        for name, offset, size in _members(root / shard):
            if name.lower().endswith(EXTENSIONS):
                members.append((os.fsencode(name), number, offset, size))
            else:
                others += 1
    if others:
        _tell(f"{root}: {others} files in the shards are no images and are left out")
    if not members:
        raise DataError(f"{root}: no image in its {len(shards)} shards")
    names, shard, offset, size = map(np.array, zip(*members, strict=True))
    sizes = np.array([(root / name).stat().st_size for name in shards])
    shards = np.array([os.fsencode(name) for name in shards])
    return dict(zip(ARRAYS, (shards, sizes, names, shard, offset, size), strict=True))


def load_index(root: Path) -> dict[str, np.ndarray] | None:
    """The index beside the shards; None without one, and where it is not of these very shards."""
    try:
        with np.load(root / INDEX, allow_pickle=False) as file:
            index = {name: file[name] for name in ARRAYS}
    except Exception:  # of any type, for damaged zip files and for arrays in them
        return None
    known = dict(zip(map(os.fsdecode, index["shards"]), index["bytes"].tolist(), strict=True))
    found = {name: (root / name).stat().st_size for name in list_shards(root)}
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
        index = make_index(partial)
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
    """Name, offset and size of the files in an uncompressed tar; a link's name is empty."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isdir():
                    name = member.name if member.isfile() else ""
                    yield name, member.offset_data, member.size
            # tarfile takes a damaged header for the end, which is a block of zeros
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is cut or damaged")
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as an uncompressed tar file ({error}); copy it again, or "
            "unpack it and write it anew"
        ) from error


def _tell(line: str) -> None:
    """On rank 0, and on standard error too where no log is set up yet: a run's comes later."""
    if distributed.rank() == 0:
        logging.getLogger("pretrain").warning(line)
