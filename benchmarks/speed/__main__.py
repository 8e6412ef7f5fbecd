"""``python -m benchmarks.speed WHAT``: how much faster than the plain baseline, in the same run."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.speed import evaluation, pretraining, profiling
from benchmarks.speed.compare import HEAD, compare
from pretrain.runtime.provenance import hardware, packages

ROWS = {
    "views": pretraining.view_rows,
    "loss": pretraining.loss_rows,
    "optimizer": pretraining.optimizer_rows,
    "step": pretraining.step_rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each row; AssertionError where the two ways give different numbers.

    With ``--profile`` ours alone runs, and is looked into.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("what", choices=("eval", *ROWS))
    parser.add_argument("--images", type=int, default=5000, help="to evaluate")
    parser.add_argument("--pairs", type=int, default=5, help="runs of either way, in turn")
    parser.add_argument(
        "--profile", metavar="DIR", help="of step: where our time goes, and a trace in DIR"
    )
    args = parser.parse_args(arguments)
    if args.profile and args.what != "step":
        parser.error(f"--profile looks into step, not into {args.what}")
    print(hardware(), *(f"{name} {version}" for name, version in packages().items()), sep="; ")
    if args.profile:
        print(profiling.profile_step(args.profile))
    else:
        size = f", {args.images} images, {evaluation.DETECTIONS} detections each"
        print(f"{args.what}{size if args.what == 'eval' else ''}, {args.pairs} pairs\n{HEAD}")
        rows = evaluation.rows(args.images) if args.what == "eval" else ROWS[args.what]()
        for row in rows:
            print(compare(row, args.pairs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
