"""``python -m benchmarks.speed WHAT``: how much faster than the plain baseline, in the same run."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.speed import evaluation, pretraining
from benchmarks.speed.compare import HEAD, compare
from pretrain.runtime.provenance import hardware, packages

ROWS = {
    "views": pretraining.view_rows,
    "loss": pretraining.loss_rows,
    "optimizer": pretraining.optimizer_rows,
    "step": pretraining.step_rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each row; AssertionError where the two ways give different numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("what", choices=("eval", *ROWS))
    parser.add_argument("--images", type=int, default=5000, help="to evaluate")
    parser.add_argument("--pairs", type=int, default=5, help="runs of either way, in turn")
    args = parser.parse_args(arguments)
    print(hardware(), *(f"{name} {version}" for name, version in packages().items()), sep="; ")
    size = f", {args.images} images, {evaluation.DETECTIONS} detections each"
    print(f"{args.what}{size if args.what == 'eval' else ''}, {args.pairs} pairs\n{HEAD}")
    rows = evaluation.rows(args.images) if args.what == "eval" else ROWS[args.what]()
    for row in rows:
        print(compare(row, args.pairs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
