"""``python -m pretrain.data``: check the images of a pretraining, or write them into shards."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import UnidentifiedImageError

from pretrain.data import ignore_signals
from pretrain.data.folder import Images
from pretrain.data.multicrop import read
from pretrain.data.shards import open_images, write_shards
from pretrain.runtime.command import with_exit_code
from pretrain.runtime.logging import progress_bar, setup_logger


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all is right, 1 where something is not. An interrupted writer leaves nothing."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="decode every image of a folder or of shards")
    check.add_argument("folder", type=Path)
    check.add_argument("--count", type=int, help="how many images there must be")
    check.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    shards = commands.add_parser("shards", help="write a folder's images into tar shards")
    shards.add_argument("folder", type=Path)
    shards.add_argument("out", type=Path)
    shards.add_argument("--size-mb", type=float, default=1000, help="of a shard, about, in MB")
    options = parser.parse_args(arguments)
    setup_logger("pretrain")
    if options.command == "check":
        return check_images(options.folder, options.count, options.workers)
    count = write_shards(options.folder, options.out, 1e6 * options.size_mb)
    print(f"{options.out}: {count} shards, {len(open_images(options.out))} images")
    return 0


def check_images(folder: Path, count: int | None, workers: int) -> int:
    """Print the number of images and every one that cannot be used; 1 if there is any, else 0."""
    images = open_images(folder)
    print(f"{folder}: {len(images)} images{images.remark and f'; {images.remark}'}")
    wrong = []
    if count not in (None, len(images)):
        wrong.append(f"{folder}: {len(images)} images, not the {count} of --count")
    loader = torch.utils.data.DataLoader(
        Reasons(images), batch_size=None, num_workers=workers, worker_init_fn=ignore_signals
    )
    with progress_bar(len(images), unit="image") as bar:
        for reason in loader:
            bar.update()
            wrong += [reason] * bool(reason)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{folder}: {'all is right' if not wrong else f'{len(wrong)} things are wrong'}")
    return int(bool(wrong))


class Reasons(torch.utils.data.Dataset):
    """For each image a line on why it cannot be used, empty if it can."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> str:
        try:
            read(self.images, index)
            return ""
        except UnidentifiedImageError:  # its own text is the address of a buffer
            reason = "is no image of a known kind"
        except Exception as error:  # decoders raise errors of any type at damaged files
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        line = f"{self.images.place(index)}: {' '.join(reason.split())}"
        return line.encode(errors="backslashreplace").decode()  # a name may be no text


if __name__ == "__main__":
    sys.exit(main())
