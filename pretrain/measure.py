"""``python -m pretrain.measure``: the monitors of a checkpoint, beside the untrained network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.augment import MultiCrop
from pretrain.data import MultiCropImages, open_images
from pretrain.data.device import to_device
from pretrain.monitor import measures, probes
from pretrain.monitor.networks import load
from pretrain.runtime.command import with_exit_code


def measure(
    checkpoint: Path, images: Path, size: int | None, labels: Path | None
) -> dict[str, dict[str, float]]:
    """The monitors of both networks, by name, on global views of MONITOR.IMAGES of the images.

    size: of the views, px; that of training where there is none. On the CPU, in float32. Raises
    CheckpointError and DataError for input that cannot be used.
    """
    cfg, networks = load(checkpoint)
    cfg.CROPS.NUM_LOCALS = 0
    cfg.CROPS.GLOBAL_SIZE = size or cfg.CROPS.GLOBAL_SIZE
    folder = MultiCropImages(open_images(images), MultiCrop(cfg.CROPS), seed=0)
    device = torch.device("cpu")
    crops, _, boxes = to_device(folder.apart(folder.spread(cfg.MONITOR.IMAGES)), device)
    found = {name: measures.measure(each, crops, boxes) for name, each in networks.items()}
    if labels:
        labelled = probes.Labels(labels, cfg.CROPS.GLOBAL_SIZE)
        for name, network in networks.items():
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
    parser.add_argument("--labels", type=Path, metavar="DIR", help="as MONITOR.LABELS")
    options = parser.parse_args(arguments)
    found = measure(options.checkpoint, options.images, options.size, options.labels)
    print(f"{'monitor':<24} {'trained':>9} {'untrained':>9}")
    for name, value in found["trained"].items():
        print(f"{name:<24} {value:>9.4f} {found['untrained'][name]:>9.4f}")


if __name__ == "__main__":
    sys.exit(main())
