"""``python -m pretrain.visualize``: pictures of what a checkpoint has learnt."""

import argparse
import functools
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.augment import MultiCrop, Views, boxes_of
from pretrain.data import DataError
from pretrain.data.folder import list_images
from pretrain.data.multicrop import decode
from pretrain.monitor import measures, pictures
from pretrain.monitor.networks import load
from pretrain.photometry import normalize
from pretrain.runtime.command import with_exit_code
from pretrain.runtime.files import write_atomically

PNG = {"format": "png", "dpi": 110, "bbox_inches": "tight"}
# px, short side of the whole image whose C5 map is drawn, and the most that the long side may have
PICTURE_SIZE, MAX_PICTURE_SIZE = 448, 4 * 448


def read_images(paths: Sequence[Path]) -> dict[Path, Tensor]:
    """RGB (3,H,W) uint8 of the images, and of those below the folders, among ``paths``.

    Raises DataError for one that cannot be read, and when two have the same stem, as their pictures
    would have the same name.
    """
    files: dict[str, Path] = {}
    for path in paths:
        for file in [path / name for name in list_images(path)] if path.is_dir() else [path]:
            if (same := files.setdefault(file.stem, file)) != file:
                raise DataError(
                    f"{file}: its pictures would have the names of those of {same}; rename it, or "
                    "call again for it with another --output"
                )
    images: dict[Path, Tensor] = {}
    for file in files.values():
        try:
            images[file] = decode(file.read_bytes())
        except Exception as error:  # decoders raise errors of any type at damaged files
            raise DataError(
                f"{file}: cannot be read ({type(error).__name__}); leave it out"
            ) from error
    return images


def views_of(images: dict[Path, Tensor], cfg: CfgNode) -> list[Views]:
    """Views of every image, then more of the same ones up to measures.STATISTICS_VIEWS globals."""
    crops = MultiCrop(cfg.CROPS)
    rounds = -(-measures.STATISTICS_VIEWS // (2 * len(images)))
    return [
        crops(image, random.Random(os.fsencode(f"{draw} {path.name}")))
        for draw in range(rounds)
        for path, image in images.items()
    ]


def whole(image: Tensor) -> Tensor:
    """An image (3,H,W) uint8 with PICTURE_SIZE as its short side, normalized; a strip has less."""
    sides = image.shape[1:]
    scale = min(PICTURE_SIZE / min(sides), MAX_PICTURE_SIZE / max(sides))
    size = [max(round(side * scale), 1) for side in sides]
    return normalize(F.interpolate(image[None] / 255, size, mode="bilinear", antialias=True)[0])


def visualize(checkpoint: Path, paths: Sequence[Path], output: Path) -> list[Path]:
    """Write ``output``/<stem>_<kind>.png for every image; returns the files.

    Kinds: views, matches, attention, pca. The untrained network is the one that training began
    with (of a released checkpoint: one like it). Both run in eval mode, with BN statistics of
    STATISTICS_VIEWS global views of the first of these very images, drawn again where they are
    few. Works on the CPU. Raises CheckpointError and DataError for input that cannot be used.
    """
    images = read_images(paths)
    cfg, models = load(checkpoint)
    views = views_of(images, cfg)
    some = views[: measures.STATISTICS_VIEWS // 2]
    statistics = torch.cat([normalize(each.global_crops / 255) for each in some])
    models = {name: measures.settled(model, statistics) for name, model in models.items()}
    written = []
    for (path, image), of in zip(images.items(), views, strict=False):
        crops, picture = normalize(of.global_crops / 255), whole(image)
        drawn = {"views": pictures.draw_views(image, of)}
        drawn |= pictures.figures(models, crops, boxes_of(of.crops[:2], "centers"), picture)
        for kind, figure in drawn.items():
            written.append(output / f"{path.stem}_{kind}.png")
            write_atomically(written[-1], functools.partial(figure.savefig, **PNG))
        print(f"{path}: {', '.join(drawn)}")
    return written


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, and say how many pictures there are now."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.visualize", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a file, or the folder of a run"
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="files or folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    written = visualize(options.checkpoint, options.images, options.output)
    print(f"{len(written)} pictures in {options.output}")


if __name__ == "__main__":
    sys.exit(main())
