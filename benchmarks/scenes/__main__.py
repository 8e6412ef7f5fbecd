"""python -m benchmarks.scenes OUT: writes the scenes; DETECTRON2_DATASETS=OUT then reads them."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scenes.generate import Request, generate
from pretrain.runtime.command import with_exit_code


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    default = Request()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenes",
        description="Draw scenes and write them in the official layouts, for DETECTRON2_DATASETS.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to create")
    parser.add_argument(
        "--images", type=_count, default=default.unlabelled, help="unlabelled images"
    )
    parser.add_argument("--train", type=_count, default=default.train, help="training images")
    parser.add_argument("--val", type=_count, default=default.val, help="validation images")
    parser.add_argument(
        "--size", type=_side, default=default.longest_side, help="longest side in px; least is 2/3"
    )
    parser.add_argument("--seed", type=_count, default=default.seed, help="same seed, same bytes")
    parser.add_argument(
        "--easy",
        action="store_true",
        help="six classes in colours and a pattern of their own, few objects, plain ground",
    )
    parser.add_argument("--workers", type=_count, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args(arguments)

    request = Request(args.images, args.train, args.val, args.size, args.seed, args.easy)
    start = time.monotonic()
    summary = generate(args.out, request, args.workers)  # nothing is kept of an interrupted one
    images = f"{request.unlabelled} unlabelled, {request.train} train, {request.val} val images"
    if summary is None:
        print(f"scenes: {args.out} already holds these {images}; nothing to do")
    else:
        print(
            f"scenes: {images}, {summary['objects']} objects, {summary['crowds']} crowds "
            f"in {time.monotonic() - start:.1f} s -> {args.out}"
        )


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _side(text: str) -> int:
    value = int(text)
    if not 64 <= value <= 4096:
        raise argparse.ArgumentTypeError(f"{value} px is not between 64 and 4096")
    return value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it tidies up first
    sys.exit(main())
