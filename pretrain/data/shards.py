"""Images in tar shards, as webdataset lays them out, read by position from local disk.

webdataset reads shards as a stream. A run here takes any image at any time, which is what makes it
resume in mid-epoch exactly; so shards are written through webdataset, and read by offset.
"""

import errno
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pretrain.data.folder import EXTENSIONS, DataError, Folder, Images
from pretrain.runtime import distributed
from pretrain.runtime.files import write_atomically
from pretrain.runtime.logging import progress_bar

FORMAT = 1
INDEX = "index.npz"  # what is where, written beside the shards; without it they are searched
ARRAYS = ("shards", "bytes", "names", "shard", "offset", "size")  # in the index
PATTERN = "shard-%06d.tar"
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Shards(Images):
    """All images in the ``*.tar`` files of a folder: by shard, and in its order."""

    def __init__(self, root: Path) -> None:
        index = load_index(root)
        if index is None:
            _tell(f"{root}: no {INDEX}, searching its shards")
            index = make_index(root)
        super().__init__(root, [])
        self._names = index["names"]
        self.shards = [os.fsdecode(name) for name in index["shards"]]
        self._shard, self._offset, self._size = (index[key] for key in ("shard", "offset", "size"))

    def path(self, index: int) -> Path:
        """The shard that holds an image."""
        return self.root / self.shards[self._shard[index]]

    def place(self, index: int) -> str:
        return f"{self.path(index)}:{self.name(index)}"

    def read_bytes(self, index: int) -> bytes:
        # Opened anew each time: a process may use more shards than it may hold open files
        with open(self.path(index), "rb") as file:
            data = os.pread(file.fileno(), self._size[index], self._offset[index])
        if len(data) != self._size[index]:
            raise OSError(errno.EIO, "The shard ends before the image does", self.place(index))
        return data

    def gone(self, index: int) -> Path | None:
        if (gone := super().gone(index)) is not None:
            return gone
        return None if os.path.exists(self.path(index)) else self.path(index)


def open_images(root: str | Path) -> Images:
    """The images of a folder: those in its shards where it has some, else all below it.

    Raises DataError where it has shards and images, or shards that are compressed.
    """
    root = Path(root)
    shards = list_shards(root)
    compressed = [path.name for path in root.glob("*") if path.name.lower().endswith(COMPRESSED)]
    if not shards and not compressed:
        return Folder(root)
    others = [
        path.name
        for path in root.iterdir()
        if path.name.lower().endswith(EXTENSIONS) or path.is_dir()
    ]
    if shards and others:
        raise DataError(
            f"{root}: holds shards ({shards[0]}) and folders or images ({min(others)}) beside "
            "them: name a folder that has one or the other"
        )
    if compressed and not others:
        raise DataError(
            f"{root / min(compressed)}: is compressed, and images are read from the midst of a "
            "shard; decompress it to a .tar"
        )
    return Shards(root) if shards else Folder(root)


def list_shards(root: Path) -> list[str]:
    """Names of the shards in a folder, sorted."""
    return sorted(path.name for path in root.glob("*.tar") if not path.is_dir())


def make_index(root: Path) -> dict[str, np.ndarray]:
    """Search all shards of a folder. Raises DataError for one that is damaged or compressed."""
    shards = list_shards(root)
    members, others = [], 0
    for number, shard in enumerate(shards):
        for name, offset, size in _members(root / shard):
            if name.lower().endswith(EXTENSIONS):
                members.append((os.fsencode(_decoded(name)), number, offset, size))
            else:
                others += 1
    if others:
        _tell(f"{root}: {others} files in the shards are no images and are left out")
    if not members:
        raise DataError(f"{root}: no image in its {len(shards)} shards")
    names, shard, offset, size = zip(*members, strict=True)
    return {
        "format": np.array(FORMAT),
        "shards": np.array([os.fsencode(name) for name in shards]),
        "bytes": np.array([(root / name).stat().st_size for name in shards]),
        "names": np.array(names),
        "shard": np.array(shard, dtype=np.int32),
        "offset": np.array(offset, dtype=np.int64),
        "size": np.array(size, dtype=np.int64),
    }


def load_index(root: Path) -> dict[str, np.ndarray] | None:
    """The index beside the shards, None without one. Raises DataError unless it is of them."""
    path = root / INDEX
    if not path.exists():
        return None
    anew = f"remove {path} to have the shards searched, or write them again"
    try:
        with np.load(path, allow_pickle=False) as file:
            index = dict(file)
        number = int(index["format"])
    except Exception as error:  # of any type, for damaged zip files and for arrays in them
        raise DataError(f"{path}: is no index of shards ({error}); {anew}") from error
    if number > FORMAT:
        raise DataError(
            f"{path}: format {number} is newer than this code's {FORMAT}; update it, or {anew}"
        )
    if lacking := [name for name in ARRAYS if name not in index]:
        raise DataError(f"{path}: is no whole index (lacks {', '.join(lacking)}); {anew}")
    known = dict(zip(map(os.fsdecode, index["shards"]), index["bytes"].tolist(), strict=True))
    found = {name: (root / name).stat().st_size for name in list_shards(root)}
    for name in sorted(known.keys() | found.keys()):
        if known.get(name) != found.get(name):
            sizes = f"{found.get(name, 'no')} bytes, {known.get(name, 'none')} in its index"
            raise DataError(f"{root / name}: has changed ({sizes}); {anew}")
    return index


def write_shards(source: str | Path, out: str | Path, max_bytes: float = 1e9) -> int:
    """Write the images below ``source`` into shards of about ``max_bytes`` in a new folder.

    Every image keeps its bytes and its place in the order, so that a run on the shards is the one
    on the folder. Returns the number of shards. Raises DataError for names that webdataset could
    not tell apart, and where ``out`` exists; OSError when the disk is full.
    """
    from webdataset import ShardWriter

    images, out = Folder(Path(source)), Path(out)
    if out.exists():
        raise DataError(f"{out}: exists; remove it or name another folder")
    keys = [_encoded(images.name(n)) for n in range(len(images))]
    seen: dict[str, int] = {}
    for n, (key, _) in enumerate(keys):
        if key in seen:
            raise DataError(
                f"{images.place(seen[key])} and {images.place(n)} differ in their extension only, "
                "which shards cannot hold; rename one"
            )
        seen[key] = n
    partial = out.with_name(f".{out.name}.partial")
    if partial.exists():  # of a writer that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    pattern = f"{str(partial.absolute()).replace('%', '%%')}/{PATTERN}"
    writer = ShardWriter(
        pattern, maxcount=len(images), maxsize=max_bytes, verbose=0, encoder=False, mtime=0
    )
    try:
        with progress_bar(len(images), unit="image") as bar, writer:
            for n, (key, extension) in enumerate(keys):
                writer.write({"__key__": key, extension: images.read_bytes(n)})
                bar.update()
        index = make_index(partial)
        write_atomically(partial / INDEX, lambda file: np.savez(file, **index))
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # gigabytes that nothing reads
        if isinstance(error, OSError) and error.filename is None:  # a full disk has no name
            raise OSError(error.errno, error.strerror, str(out)) from error
        raise
    return len(index["shards"])


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


def _encoded(name: str) -> tuple[str, str]:
    """Key and extension under which webdataset finds a file: it cuts names at their first dot."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.rpartition(".")
    if not stem:
        raise DataError(f"{name}: has no name before its extension; rename it")
    stem = stem.replace("%", "%25").replace(".", "%2E")
    return f"{folder}/{stem}" if folder else stem, extension


def _decoded(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    decoded = re.sub("%(2E|25)", lambda match: {"2E": ".", "25": "%"}[match[1]], base)
    return f"{folder}{slash}{decoded}"


def _tell(line: str) -> None:
    """On rank 0, and on standard error too where no log is set up yet: a run's comes later."""
    if distributed.rank() == 0:
        logging.getLogger("pretrain").warning(line)
