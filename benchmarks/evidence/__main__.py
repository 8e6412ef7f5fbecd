"""``python -m benchmarks.evidence replicate|page``: the scenes benchmark."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.evidence import page, replicate
from benchmarks.evidence.rows import FROZEN, FULL, RESULTS
from pretrain.runtime.command import with_exit_code


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> int | None:
    """Returns 0, 1 (a stage failed), 2 (input that cannot be used) or 75 (go on)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("page", help="write SCENES.md and SCENES.svg")
    one = commands.add_parser(
        "replicate", help="scenes, pretraining and fine-tunings", description=replicate.__doc__
    )
    said = "full, or NAME of configs/benchmarks/scenes-NAME.yaml; default: full frozen"
    one.add_argument("--seed", type=int, required=True, help="kept from 100 on, below to tune")
    one.add_argument("--regime", nargs="+", default=[FULL, FROZEN], metavar="NAME", help=said)
    one.add_argument("--slots", type=int, default=2, help="how many stages at once; default 2")
    one.add_argument("--run", type=int, default=1, help="2: again in another clone")
    args = parser.parse_args(arguments)
    if args.command == "replicate":
        return replicate.replicate(args.seed, args.regime, args.slots, args.run)
    return page.write(RESULTS, page.SCENES_MD)


if __name__ == "__main__":
    sys.exit(main())
