"""``python -m benchmarks.speed eval``: how much faster than the plain baseline, in the same run."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.runtime.provenance import hardware, packages

TOLERANCE = 1e-6
COLUMNS = "{:<15} {:<12} {:>8} {:>8} {:>7} {:>7} {:>7}"


@dataclass(frozen=True)
class Row:
    """Two ways to the same numbers. inputs: makes the arguments, which either may change."""

    name: str
    baseline: str
    inputs: Callable[[], tuple]
    ours: Callable[..., Sequence[float]]
    theirs: Callable[..., Sequence[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each row; AssertionError where the two ways give different numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("command", choices=("eval",), help="what to compare")
    parser.add_argument("--images", type=int, default=5000, help="images to evaluate")
    parser.add_argument("--pairs", type=int, default=3, help="runs of either way, in turn")
    args = parser.parse_args(arguments)

    from benchmarks import speed_eval

    print(hardware(), *(f"{name} {version}" for name, version in packages().items()), sep="; ")
    print(f"{args.images} images, {speed_eval.DETECTIONS} detections each, {args.pairs} pairs")
    print(COLUMNS.format("row", "baseline", "ours_s", "theirs_s", "ratio", "min", "max"))
    for row in speed_eval.rows(args.images):
        print(compare(row, args.pairs), flush=True)
    return 0


def compare(row: Row, pairs: int) -> str:
    """The row's line: median seconds of either way; median, least and largest ratio of a pair."""
    seconds = []
    for pair in range(pairs):
        first, second = timed(row, pair % 2 == 0), timed(row, pair % 2 == 1)
        (ours, found), (theirs, expected) = (first, second) if pair % 2 == 0 else (second, first)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=row.name)
        seconds.append((ours, theirs))
    ratios = [theirs / ours for ours, theirs in seconds]
    times = [f"{statistics.median(way):.2f}" for way in zip(*seconds, strict=True)]
    shown = [f"{ratio:.2f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
    return COLUMNS.format(row.name, row.baseline, *times, *shown)


def timed(row: Row, ours: bool) -> tuple[float, Sequence[float]]:
    """Seconds and result of one way."""
    inputs = row.inputs()
    start = time.perf_counter()
    result = (row.ours if ours else row.theirs)(*inputs)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    sys.exit(main())
