"""What a matrix will take, before anything runs: cells, GPU-hours and disk."""

import functools
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cost import flops_per_image, gpu_hours, images_per_second, load_cost
from benchmarks.markdown import grid
from benchmarks.published import TaskInfo, load_published
from benchmarks.runner.matrix import CONVERT, PRETRAIN, Init, Matrix
from benchmarks.runner.stages import FineTune, Stage, stages_to_do
from pretrain.config import get_cfg
from pretrain.runtime.config import ConfigError, flatten, is_within

UNKNOWN = "unknown"
# What the cost of an image was counted with
GEOMETRY = ("MODEL", "CROPS.GLOBAL_SIZE", "CROPS.NUM_LOCALS", "CROPS.LOCAL_SIZE")


@functools.cache
def _published() -> dict[str, TaskInfo]:
    return load_published()


def fine_tuning_hours(stage: FineTune, cost: Mapping[str, Any]) -> float | None:
    """GPU-hours of a cell, as the model zoo's time per iteration has it; None where that is not for
    such images and batches."""
    known = cost["fine_tuning"]["tasks"].get(stage.kind)
    task = _published().get(stage.kind)
    if known is None or task.schedule is None or stage.asked.overlay is not None:
        return None
    if stage.asked.images_per_batch != task.schedule.images_per_batch:
        return None
    return (
        known["seconds_per_iteration"]
        * stage.asked.iterations
        * cost["fine_tuning"]["num_gpus"]
        / 3600
    )


def pretraining_hours(init: Init, cost: Mapping[str, Any]) -> tuple[float, float] | None:
    """GPU-hours of a pretraining at the largest and the least assumed share of the first GPU's
    rate; None for networks or views that were not counted."""
    settings = init.pretrain.settings
    for key, value in flatten(get_cfg()).items():
        if is_within(key, GEOMETRY) and settings[key] != str(value):
            return None
    images = cost["pretraining"]["images"] * int(settings["SOLVER.EPOCHS"])
    gpu, flops = next(iter(cost["gpus"].values())), flops_per_image(cost["pretraining"])
    shares = max(cost["shares_of_limit"]), min(cost["shares_of_limit"])
    fast, slow = (gpu_hours(images, images_per_second(gpu, flops, share)) for share in shares)
    return fast, slow


def disk_bytes(stage: Stage, cost: Mapping[str, Any]) -> int | None:
    """What a stage leaves behind, and a second checkpoint while it writes the next; None where that
    is not known."""
    if stage.kind == CONVERT:
        return cost["fine_tuning"]["backbone_bytes"]
    if stage.kind == PRETRAIN:
        fixed = cost["pretraining"]["memory_bytes"]["fixed"]
        checkpoint = sum(fixed[part] for part in ("student", "momentum", "teacher"))
        return checkpoint * (get_cfg().CHECKPOINT.KEEP + 1)
    known = cost["fine_tuning"]["tasks"].get(stage.kind)
    return None if known is None else known["checkpoint_bytes"]


def require_disk(todo: Sequence[Stage], output: Path, at_once: int) -> None:
    """Raise ConfigError where there is no space for what is not done yet."""
    needed = needed_bytes(todo, at_once)
    free = free_bytes(output)
    if free < needed:
        raise ConfigError(
            f"{output}: the plan needs {_gb(needed)} GB, {_gb(free)} GB are free: free some, or "
            "choose another --output"
        )


def needed_bytes(todo: Sequence[Stage], at_once: int) -> int:
    """Of all that is to do and known: what is kept, and what is written beside it meanwhile."""
    cost = load_cost()
    sizes = [disk_bytes(stage, cost) or 0 for stage in todo]
    return sum(sizes) + sum(sorted(sizes)[-at_once:])


def free_bytes(output: Path) -> int:
    """On the disk that ``output`` is, or will be, on."""
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def describe(
    matrix: Matrix,
    stages: Sequence[Stage],
    output: Path,
    at_once: int,
    anew: Collection[str] = (),
) -> str:
    """What ``--dry-run`` prints: hours of GPUs, decimal GB of disk.

    anew: the names of the stages that are done and would be run again.
    """
    cost, todo = load_cost(), stages_to_do(stages, anew)
    names = {stage.name for stage in todo}
    cells = [stage for stage in stages if isinstance(stage, FineTune)]
    done = sum(cell.name not in names for cell in cells)
    inits = f"{len(matrix.inits)} inits, {len(matrix.tasks)} tasks"
    parts = [f"{matrix.config}: {inits}, {len(cells)} cells, {done} of them done"]
    missing = matrix.missing()
    if missing:
        parts.append("missing, so that nothing can run:\n" + "\n".join(f"  {m}" for m in missing))
    wanted = {stage.needs for stage in todo}
    before = [stage for stage in stages if stage.name in wanted]
    if before:
        parts.append(_before(before, names, cost))
    parts += [_cells(cells, names, cost), _disk(todo, output, at_once)]
    return "\n\n".join(parts)


def _before(stages: Sequence[Stage], todo: Collection[str], cost: Mapping[str, Any]) -> str:
    rows, gpu = [], next(iter(cost["gpus"]))
    for stage in stages:
        hours = "" if stage.kind == CONVERT else UNKNOWN
        if stage.kind == PRETRAIN and (both := pretraining_hours(stage.init, cost)) is not None:
            hours = f"{both[0]:,.0f} to {both[1]:,.0f}"
        size = _gb(disk_bytes(stage, cost))
        rows.append([stage.name, "to do" if stage.name in todo else "done", hours, size])
    shares = cost["shares_of_limit"]
    note = (
        f"GPU-hours of a pretraining: counted FLOPs on one {gpu} at {max(shares):.0%} to "
        f"{min(shares):.0%} of its rate, which is assumed; {cost['pretraining']['images']:,} "
        "images per epoch."
    )
    table = grid([["stage", "", "GPU-hours", "GB"], *rows])
    return f"{table}\n\n{note}" if any(stage.kind == PRETRAIN for stage in stages) else table


def _cells(cells: Sequence[FineTune], names: Collection[str], cost: Mapping[str, Any]) -> str:
    rows, total, unknown = [], 0.0, 0
    for task in dict.fromkeys(cell.kind for cell in cells):
        todo = [cell for cell in cells if cell.kind == task and cell.name in names]
        hours = [fine_tuning_hours(cell, cost) for cell in todo]
        known = None not in hours
        total, unknown = total + sum(filter(None, hours)), unknown + hours.count(None)
        sizes = [disk_bytes(cell, cost) for cell in todo]
        rows.append(
            [
                task,
                str(sum(cell.kind == task for cell in cells)),
                str(len(todo)),
                f"{sum(hours):,.0f}" if known else UNKNOWN,
                UNKNOWN if None in sizes else _gb(sum(sizes)),
            ]
        )
    zoo = cost["fine_tuning"]
    note = (
        f"GPU-hours of the cells: {total:,.0f} on {zoo['gpu']}"
        f"{f', and those of {unknown} cells that are not known' if unknown else ''}. Seconds per "
        f"iteration are those of Detectron2's model zoo on {zoo['num_gpus']} of them "
        f"({zoo['source']}), for variants that are lighter than ours; evaluation is not in them."
    )
    return grid([["task", "cells", "to run", "GPU-hours", "GB"], *rows]) + f"\n\n{note}"


def _disk(todo: Sequence[Stage], output: Path, at_once: int) -> str:
    needed, free = needed_bytes(todo, at_once), free_bytes(output)
    known = None not in [disk_bytes(stage, load_cost()) for stage in todo]
    return (
        f"Disk: {'' if known else 'at least '}{_gb(needed)} GB are needed, {_gb(free)} GB are free "
        f"at {output}. Assumed: a cell keeps one checkpoint (weights and momentum) and has two "
        f"while it runs, {at_once} at once; logs are not counted."
    )


def _gb(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / 1e9:.1f}"
