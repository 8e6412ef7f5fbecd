"""``python -m benchmarks.speed WHAT``: how much faster than the plain baseline, in the same run."""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

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
    rtol: float = 0.0  # to which the two results agree
    threads: int | None = None  # to run in, where it is a loader's process that does it
    memory: bool = False  # whether to compare the peaks of memory too


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each row; AssertionError where the two ways give different numbers.

    With ``--profile`` ours alone runs, and is looked into.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("what", choices=("eval", "views", "loss", "optimizer", "step", "ranks"))
    parser.add_argument("--images", type=int, default=5000, help="to evaluate")
    parser.add_argument("--pairs", type=int, default=5, help="runs of either way, in turn")
    parser.add_argument(
        "--profile", metavar="DIR", help="of step: where our time goes, and a trace in DIR"
    )
    args = parser.parse_args(arguments)
    if args.profile and args.what != "step":
        parser.error(f"--profile looks into step, not into {args.what}")

    from benchmarks import profile_step, speed_eval, speed_pretrain, speed_ranks

    rows = {
        "eval": lambda: speed_eval.rows(args.images),
        "views": speed_pretrain.view_rows,
        "loss": speed_pretrain.loss_rows,
        "optimizer": speed_pretrain.optimizer_rows,
        "step": speed_pretrain.step_rows,
    }
    print(hardware(), *(f"{name} {version}" for name, version in packages().items()), sep="; ")
    if args.profile:
        profile_step.profile_step(args.profile)
        return 0
    if args.what == "ranks":
        print(speed_ranks.compare(args.pairs))
        return 0
    of_eval = f"{args.images} images, {speed_eval.DETECTIONS} detections each"
    what = of_eval if args.what == "eval" else args.what
    print(f"{what}, {args.pairs} pairs")
    print(COLUMNS.format("row", "baseline", "ours_s", "theirs_s", "ratio", "min", "max"))
    for row in rows[args.what]():
        print(compare(row, args.pairs), flush=True)
        if row.memory:
            ours, theirs = (peak_bytes(row, ours) / 2**20 for ours in (True, False))
            print(f"{row.name}: peak memory {ours:.1f} MiB, {row.baseline} {theirs:.1f} MiB")
    return 0


def compare(row: Row, pairs: int) -> str:
    """The row's line: median seconds of either way; median, least and largest ratio of a pair."""
    seconds = []
    for pair in range(pairs):
        first, second = timed(row, pair % 2 == 0), timed(row, pair % 2 == 1)
        (ours, found), (theirs, expected) = (first, second) if pair % 2 == 0 else (second, first)
        np.testing.assert_allclose(found, expected, rtol=row.rtol, atol=TOLERANCE, err_msg=row.name)
        seconds.append((ours, theirs))
    ratios = [theirs / ours for ours, theirs in seconds]
    times = [f"{statistics.median(way):.2f}" for way in zip(*seconds, strict=True)]
    shown = [f"{ratio:.2f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
    return COLUMNS.format(row.name, row.baseline, *times, *shown)


def timed(row: Row, ours: bool) -> tuple[float, Sequence[float]]:
    """Seconds and result of one way."""
    inputs = row.inputs()
    threads = torch.get_num_threads()
    torch.set_num_threads(row.threads or threads)
    start = time.perf_counter()
    result = (row.ours if ours else row.theirs)(*inputs)
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    return seconds, result


def peak_bytes(row: Row, ours: bool) -> int:
    """The most that tensors of one way take at a time, beside its inputs."""
    way, inputs = row.ours if ours else row.theirs, row.inputs()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        way(*inputs)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(change for _, change in changes))


if __name__ == "__main__":
    sys.exit(main())
