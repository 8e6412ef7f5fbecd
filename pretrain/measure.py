"""``python -m pretrain.measure``: the monitors of a checkpoint, beside the untrained network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.augment import MultiCrop
from pretrain.data import DataError, MultiCropImages, open_images
from pretrain.data.device import to_device
from pretrain.monitor import measures, probes
from pretrain.monitor.networks import load
from pretrain.runtime.command import with_exit_code


def measure(
    checkpoint: Path, images: Path, size: int | None, count: int, labels: Path | None
) -> dict[str, dict[str, float]]:
    """The monitors of both networks, by name, on global views of ``size`` px of ``count`` images.

    Without ``size``, of that of training. On the CPU, in float32. Raises CheckpointError and
    DataError for input that cannot be used.
    """
    cfg, networks = load(checkpoint)
    cfg.CROPS.NUM_LOCALS = 0
    cfg.CROPS.GLOBAL_SIZE = size = size or cfg.CROPS.GLOBAL_SIZE
    folder = MultiCropImages(open_images(images), MultiCrop(cfg.CROPS), seed=0)
    labelled = probes.Labels(labels, size) if labels else None
    device = torch.device("cpu")
    crops, _, boxes = to_device(folder.apart(folder.spread(count)), device)
    found = {}
    for name, network in networks.items():
        try:
            found[name] = measures.measure(network, crops, boxes)
        except ValueError as error:  # of a loss that lacks cells
            raise DataError(f"--size {size}: {error}") from error
        if labelled:
            found[name] |= probes.measure(network, labelled, device)
    return found


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each monitor."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.measure", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a file, or the folder of a run"
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="images that training did not see")
    parser.add_argument("--size", type=int, help="of the views, px (default: that of training)")
    parser.add_argument("--count", type=int, default=64, help="images, 2 or more (default: 64)")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="as MONITOR.LABELS")
    options = parser.parse_args(arguments)
    if options.count < 2:
        parser.error(f"--count {options.count}: cells of different images are compared")
    found = measure(options.checkpoint, options.images, options.size, options.count, options.labels)
    print(f"{'monitor':<24} {'trained':>9} {'untrained':>9}")
    for name, value in found["trained"].items():
        print(f"{name:<24} {value:>9.4f} {found['untrained'][name]:>9.4f}")


if __name__ == "__main__":
    sys.exit(main())
