"""Two ways to the same numbers, timed in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

TOLERANCE = 1e-6
COLUMNS = "{:<15} {:<12} {:>8} {:>8} {:>7} {:>7} {:>7}"
HEAD = COLUMNS.format("row", "baseline", "ours_s", "theirs_s", "ratio", "min", "max")


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


def compare(row: Row, pairs: int) -> str:
    """The row's line: median seconds of either way; median, least and largest ratio of a pair.

    AssertionError where the two ways give different numbers.
    """
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        found = {}
        for ours in (pair % 2 == 0, pair % 2 == 1):  # neither is always the first
            taken, found[ours] = timed(row, ours)
            seconds[ours].append(taken)
        np.testing.assert_allclose(
            found[True], found[False], rtol=row.rtol, atol=TOLERANCE, err_msg=row.name
        )
    times = [f"{statistics.median(seconds[way]):.2f}" for way in (True, False)]
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    shown = [statistics.median(ratios), min(ratios), max(ratios)]
    return COLUMNS.format(row.name, row.baseline, *times, *(f"{ratio:.2f}" for ratio in shown))


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
