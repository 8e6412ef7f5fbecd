"""``python -m benchmarks``: run the matrix init x task x seed, collect its tables."""

import argparse
import sys
from collections.abc import Sequence

from pretrain.runtime.config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, 1 (some cells failed or are not readable), 2 (nothing done) or 75 (go on)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run_parser = commands.add_parser("run", help="fine-tune every cell that is not done yet")
    run_parser.add_argument("--config-file", required=True, help="configs/benchmarks/X.yaml")
    run_parser.add_argument(
        "--output", required=True, help="folder of the results, one for each config"
    )

    collect_parser = commands.add_parser("collect", help="write RESULTS.md and results.csv")
    collect_parser.add_argument("folder", help="what `run` was given as --output")
    collect_parser.add_argument(
        "--published", help="YAML of published values (default: the one here)"
    )
    collect_parser.add_argument("--output", help="folder to write to (default: the folder itself)")

    args = parser.parse_args(arguments)
    try:
        if args.command == "run":
            from benchmarks.run import run

            return run(args.config_file, args.output)
        from benchmarks.collect import PUBLISHED_YAML, collect

        return collect(args.folder, args.published or PUBLISHED_YAML, args.output)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
