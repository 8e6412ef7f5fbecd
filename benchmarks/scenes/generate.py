"""Fills a folder with scenes: all of it, or nothing that looks finished.

Everything is written into a hidden folder beside the target, which takes the target's place at the
end; ``scenes.json``, written last, says what it holds.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from benchmarks.scenes import cityscapes, coco, densepose, keypoints, lvis, voc
from benchmarks.scenes.scene import SPLITS, make_scene
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_json

FORMAT = 3
# A layout's module has add(root, split, index, scene) -> entry, which writes the files of one
# labelled image and runs in the workers, and finish(root, entries), which runs once, at the end:
# entries are lists by labelled split. The first one writes the images that others use.
LAYOUTS = {
    "coco": coco,
    "keypoints": keypoints,
    "densepose": densepose,
    "lvis": lvis,
    "cityscapes": cityscapes,
    "voc": voc,
}
SUMMARY = "scenes.json"


class ScenesError(ConfigError):
    """The folder cannot be used; the message says why, and the way out."""


@dataclass(frozen=True)
class Request:
    """What the folder is to hold; numbers of images, and the longest side in px."""

    unlabelled: int = 1000
    train: int = 200
    val: int = 100
    longest_side: int = 192
    seed: int = 0
    easy: bool = False  # six classes with a look of their own, on plain ground, few objects


def generate(out: Path, request: Request, workers: int = 1) -> dict | None:
    """Write the scenes into ``out`` with ``workers`` processes, whose number changes no byte.

    Returns what ``scenes.json`` then says, or None if ``out`` had all of it before.
    """
    out = Path(out).absolute()
    if _holds(out, request):
        return None
    with (
        _partial_folder(out) as partial_out,
        closing(_draw_all(partial_out, request, workers)) as images,
    ):
        summary = {"format": FORMAT, "layouts": list(LAYOUTS), **asdict(request)}
        summary |= {"objects": 0, "crowds": 0}
        entries = {split: [] for split in SPLITS}
        for split, objects, crowds, image_entries in images:
            entries[split].append(image_entries)
            summary["objects"] += objects
            summary["crowds"] += crowds
        for number, layout in enumerate(LAYOUTS.values()):
            own = {s: [entry[number] for entry in entries[s]] for s in ("train", "val")}
            layout.finish(partial_out, own)
        write_json(partial_out / SUMMARY, summary)
        if _holds(out, request):  # another process was faster
            return None
        os.replace(partial_out, out)
    return summary


def _holds(out: Path, request: Request) -> bool:
    """Whether ``out`` has these scenes already; an error if it has anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    way_out = "Delete it, or name another folder."
    if not (out / SUMMARY).is_file():
        raise ScenesError(f"{out}: exists and has no {SUMMARY}, so it holds no scenes. {way_out}")
    try:
        held = json.loads((out / SUMMARY).read_text())
    except ValueError as error:
        raise ScenesError(f"{out / SUMMARY}: not readable as JSON ({error}). {way_out}") from error
    asked = {"format": FORMAT, "layouts": list(LAYOUTS), **asdict(request)}
    differing = [key for key in asked if held.get(key) != asked[key]]
    if differing:
        holds = ", ".join(f"{key} {held.get(key)}" for key in differing)
        wants = ", ".join(f"{key} {asked[key]}" for key in differing)
        raise ScenesError(f"{out}: holds scenes with {holds}; asked for {wants}. {way_out}")
    return True


@contextmanager
def _partial_folder(out: Path) -> Iterator[Path]:
    """An empty hidden neighbour of ``out`` that this process alone writes to, removed if it stays.

    What a killed process left there is removed, too.
    """
    folder = out.with_name(f".{out.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ScenesError(f"{out}: another process is writing scenes there; wait.") from error
        try:
            for leftover in folder.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _draw_all(root: Path, request: Request, workers: int) -> Iterator[tuple]:
    """What ``_draw_one`` returns for every image, in order."""
    tasks = [(split, index) for split in SPLITS for index in range(getattr(request, split))]
    draw = partial(_draw_one, root, request)
    bar = partial(
        tqdm, total=len(tasks), desc="scenes", unit="image", disable=not sys.stderr.isatty()
    )
    if workers <= 1:
        yield from bar(map(draw, tasks))
        return
    # Spawned, since forking a process that may run threads is unsafe.
    with get_context("spawn").Pool(workers, initializer=_start_worker) as pool:
        yield from bar(pool.imap(draw, tasks, chunksize=8))


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone reacts, and ends the pool
    cv2.setNumThreads(1)


def _draw_one(root: Path, request: Request, task: tuple[str, int]) -> tuple:
    """Draw and write one image: its split, numbers of objects and crowds, one entry per layout."""
    split, index = task
    scene = make_scene(request.seed, split, index, request.longest_side, request.easy)
    if split == "unlabelled":
        coco.add_image(root, split, index, scene)
        return split, 0, 0, []
    crowds = sum(instance.is_crowd for instance in scene.instances)
    entries = [layout.add(root, split, index, scene) for layout in LAYOUTS.values()]
    return split, len(scene.instances) - crowds, crowds, entries
