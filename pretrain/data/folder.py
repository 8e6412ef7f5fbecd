"""Images as a list of names with their bytes; here from a folder, searched recursively."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.runtime.files import DataError, hint_at

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
# How names begin that systems and programs write beside images: .DS_Store, ._a.jpg, .cache, ...
HIDDEN = (".", "@eaDir", "__MACOSX", "#recycle")
# What NAME.word.png beside NAME.jpg says of itself
MASKS = {
    *("seg", "segm", "segmentation", "semantic", "instance", "instances", "panoptic", "mask"),
    *("masks", "matte", "label", "labels", "labelids", "gt", "depth", "disparity", "ann", "edges"),
}


class Images:
    """Names in a fixed order. A source of images adds where they are and how they are read."""

    def __init__(self, root: Path, names: Sequence[bytes], remark: str) -> None:
        self.root, self.remark = root, remark  # a line on what was left out, or empty
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
    """All images below a folder, sorted; each once, whatever links there are.

    files: those below it, where they are known.
    """

    def __init__(self, root: Path, files: Sequence[str] = ()) -> None:
        files = files or list_files(root)
        images, remark = choose(files)
        if not images:
            raise DataError(f"{root}: no image below it; {remark or 'there is no file at all'}")
        super().__init__(root, [os.fsencode(files[index]) for index in images], remark)

    def place(self, index: int) -> str:
        """Where an image is, for people."""
        return str(self.root / self.name(index))

    def read_bytes(self, index: int) -> bytes:
        """The file's content. Raises OSError."""
        return (self.root / self.name(index)).read_bytes()


def list_images(root: str | Path) -> list[str]:
    """Paths relative to ``root`` of all images below it, links followed, sorted."""
    folder = Folder(Path(root))
    return [folder.name(index) for index in range(len(folder))]


def list_files(root: Path) -> list[str]:
    """Paths relative to ``root`` of all files below it, links followed, sorted.

    Every folder is entered once, by its own path rather than by a link, and every file is listed
    once, by its own path unless only a link's name has the ending of an image or a shard: so loops
    end, and no file comes twice. Raises DataError.
    """
    if not root.is_dir():
        if root.exists():
            raise DataError(f"{root}: is a file; name the folder that holds it (DATA.ROOT)")
        hint = hint_at(root, os.listdir(root.parent) if root.parent.is_dir() else ())
        raise DataError(
            f"{root}: no such folder{hint}; name a folder of images (DATA.ROOT), or write a small "
            "one: python -m benchmarks.scenes OUT"
        )
    files, links, entered = [], [], set()
    folders, linked_folders = [str(root)], []
    while folders or linked_folders:
        folder = folders.pop() if folders else linked_folders.pop(0)
        real = os.path.realpath(folder)
        if real in entered:
            continue
        entered.add(real)
        for entry in _entries(folder):
            is_link = entry.is_symlink()
            is_folder = os.path.isdir(entry) if is_link else entry.is_dir()
            if is_folder and not entry.name.startswith(HIDDEN):
                (linked_folders if is_link else folders).append(entry.path)
            else:
                (links if is_link else files).append(entry.path)
    start = len(os.path.join(root, ""))
    if links:
        listed = {os.path.realpath(path): path for path in files}
        for link in sorted(links):
            known = listed.setdefault(os.path.realpath(link), link)
            if _is_wanted(link[start:]) and not _is_wanted(known[start:]):
                listed[os.path.realpath(link)] = link
        files = listed.values()
    return sorted(path[start:] for path in files)


def _is_wanted(name: str) -> bool:
    return name.lower().endswith((*EXTENSIONS, ".tar")) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a system or a program wrote it, or a folder that it is in, beside the images."""
    return any(part.startswith(HIDDEN) for part in name.split("/") if part not in (".", ".."))


def choose(names: Sequence[str]) -> tuple[list[int], str]:
    """Which files are images, and a line on the others; empty where there is nothing to say.

    NAME.seg.png and the like beside an image NAME.jpg are masks: they are left out.
    """
    found, others = [], Counter()
    for index, name in enumerate(names):
        ending = os.path.splitext(name)[1].lower()
        if is_hidden(name):
            others["hidden"] += 1
        elif ending in EXTENSIONS:
            found.append(index)
        else:
            others[ending or "without an ending"] += 1
    stems = Counter(os.path.splitext(names[index])[0] for index in found)
    images = []
    for index in found:
        folder, base = os.path.split(names[index])
        first, *middle, _ = base.split(".")
        if middle and middle[0].lower() in MASKS and os.path.join(folder, first) in stems:
            others[f"NAME.{'.'.join(middle)} beside an image NAME"] += 1
        else:
            images.append(index)
    kinds = [f"{count} {ascii(kind)[1:-1]}" for kind, count in others.most_common(10)]
    if rest := others.total() - sum(count for _, count in others.most_common(10)):
        kinds.append(f"{rest} others")
    remarks = [f"left out: {', '.join(kinds)}"] * bool(kinds)
    twice = [stem for stem, count in stems.items() if count > 1]
    if twice:
        remarks.append(
            f"several images of one name: {len(twice)} times, as {ascii(twice[0])[1:-1]}; all are "
            "used: where some are masks, move them away"
        )
    return images, "; ".join(remarks)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error
