"""``python -m benchmarks``: run the matrix init x task x seed, collect its tables."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.page import report
from benchmarks.runner.run import run
from benchmarks.runner.status import status
from benchmarks.tables.collect import collect
from benchmarks.tables.export import export
from pretrain.runtime.command import with_exit_code


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> int | None:
    """Returns 0, 1 (some cells failed or are not readable), 2 (nothing done) or 75 (go on)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run_parser = commands.add_parser("run", help="fine-tune every cell that is not done yet")
    run_parser.add_argument("--config-file", required=True, help="configs/benchmarks/X.yaml")
    run_parser.add_argument(
        "--output", required=True, help="folder of the results, one for each config"
    )
    run_parser.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="where (default: local)"
    )
    run_parser.add_argument(
        "--slots", type=int, default=1, help="local: how many at once, with whole GPUs; default 1"
    )
    run_parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, its GPU-hours and disk, and stop"
    )

    status_parser = commands.add_parser("status", help="what is done, runs, has failed or waits")
    status_parser.add_argument("folder", type=Path, help="what `run` was given as --output")

    collect_parser = commands.add_parser(
        "collect", help="write the tables: RESULTS.md and results.csv, .json and .tex"
    )
    collect_parser.add_argument(
        "folder", help="what `run` was given as --output; its matrix.json names the tasks"
    )
    collect_parser.add_argument("--output", help="folder to write to (default: the folder itself)")

    report_parser = commands.add_parser("report", help="write one HTML page of all results")
    report_parser.add_argument("folder", help="what `run` was given as --output")
    report_parser.add_argument("--output", help="file to write (default: report.html in it)")

    export_parser = commands.add_parser("export", help="write a backbone with its model card")
    export_parser.add_argument("folder", help="one init's folder: RESULTS/<init>")
    export_parser.add_argument("out", help="a new folder")

    args = parser.parse_args(arguments)
    if args.command == "run":
        return run(args.config_file, args.output, args.executor, args.slots, dry_run=args.dry_run)
    if args.command == "status":
        print(status(args.folder))
        return 0
    if args.command == "report":
        return report(args.folder, args.output)
    if args.command == "export":
        return export(args.folder, args.out)
    return collect(args.folder, args.output)


if __name__ == "__main__":
    sys.exit(main())
