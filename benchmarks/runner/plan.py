"""What a matrix will take, before anything runs: cells, GPU-hours and disk."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runner.matrix import CONVERT, PRETRAIN, Matrix
from benchmarks.runner.stages import Stage, stages_to_do
from benchmarks.speed.cost import expected, gpu_hours, load_cost
from benchmarks.tables.markdown import grid
from benchmarks.tables.published import load_published
from pretrain.config import get_cfg
from pretrain.methods import complete
from pretrain.runtime.config import ConfigError, flatten, is_within

UNKNOWN = "unknown"
# What decides the operations of a step; the loss's own numbers are in METHOD, too
GEOMETRY = ("METHOD", "ENCODER", "CROPS.GLOBAL_SIZE", "CROPS.NUM_LOCALS", "CROPS.LOCAL_SIZE")


def fine_tuning_hours(stage: Stage, cost: Mapping[str, Any]) -> tuple[float, float] | None:
    """GPU-hours of a cell, as the model zoo's time per iteration has it; None where that is not for
    such images and batches."""
    zoo, asked = cost["fine_tuning"], stage.fine_tuning
    known, task = zoo["tasks"].get(stage.kind), load_published().get(stage.kind)
    if known is None or task.schedule is None or asked.overlay is not None:
        return None
    if asked.images_per_batch != task.schedule["images_per_batch"]:
        return None
    hours = known["seconds_per_iteration"] * asked.iterations * zoo["num_gpus"] / 3600
    return hours, hours


def pretraining_hours(stage: Stage, cost: Mapping[str, Any]) -> tuple[float, float] | None:
    """GPU-hours of a pretraining on the first GPU, compiled and eager, at the expected rates; None
    for networks or views that were not counted."""
    settings, counted = stage.init.pretrain.settings, flatten(complete(get_cfg()))
    if any(is_within(key, GEOMETRY) and settings.get(key) != str(counted[key]) for key in counted):
        return None
    images = cost["pretraining"]["images"] * int(settings["SOLVER.EPOCHS"])
    rates = expected(next(iter(cost["gpus"].values())), cost)
    return gpu_hours(images, rates["compiled"]), gpu_hours(images, rates["eager"])


def disk_bytes(stage: Stage, cost: Mapping[str, Any]) -> int | None:
    """What a stage leaves behind, and a second checkpoint while it writes the next; None where that
    is not known."""
    if stage.kind == CONVERT:
        return cost["fine_tuning"]["backbone_bytes"]
    if stage.kind == PRETRAIN:
        fixed = cost["pretraining"]["memory_bytes"]["fixed"]
        checkpoint = sum(fixed[part] for part in ("student", "momentum", "teacher"))
        return checkpoint * (get_cfg().CHECKPOINT.KEEP + 1)
    return cost["fine_tuning"]["tasks"].get(stage.kind, {}).get("checkpoint_bytes")


def require_disk(todo: Sequence[Stage], output: Path, at_once: int) -> None:
    """Raise ConfigError where there is no space for what is not done yet."""
    needed, free = disk_of(todo, output, at_once)
    if free < needed:
        raise ConfigError(
            f"{output}: the plan needs {needed:.1f} GB, {free:.1f} GB are free: free some, or "
            "choose another --output"
        )


def disk_of(todo: Sequence[Stage], output: Path, at_once: int) -> tuple[float, float]:
    """GB that all that is to do needs, as far as that is known, and that are free.

    Needed is what is kept, and what is written beside it meanwhile.
    """
    cost = load_cost()
    sizes = [disk_bytes(stage, cost) or 0 for stage in todo]
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    needed = sum(sizes) + sum(sorted(sizes)[-at_once:])
    return needed / 1e9, shutil.disk_usage(existing).free / 1e9


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
    cells = [stage for stage in stages if stage.is_cell]
    done = sum(cell.name not in names for cell in cells)
    inits = f"{len(matrix.inits)} inits, {len(matrix.tasks)} tasks"
    parts = [f"{matrix.config}: {inits}, {len(cells)} cells, {done} of them done"]
    if missing := matrix.missing():
        parts.append("missing, so that nothing can run:\n" + "\n".join(f"  {m}" for m in missing))
    rows: dict[str, list[Stage]] = {}
    for stage in stages:
        rows.setdefault(stage.kind if stage.is_cell else stage.name, []).append(stage)
    table = [["stage or task", "in all", "to run", "GPU-hours", "GB"]]
    for row, group in rows.items():
        own = [stage for stage in group if stage.name in names]
        hours = [gpu_hours_of(stage, cost) for stage in own]
        sizes = [disk_bytes(stage, cost) for stage in own]
        said = UNKNOWN
        if None not in hours:
            fast, slow = (sum(column) for column in zip((0, 0), *hours, strict=True))
            said = f"{fast:,.0f}" if fast == slow else f"{fast:,.0f} to {slow:,.0f}"
        size = UNKNOWN if None in sizes else f"{sum(sizes) / 1e9:.1f}"
        table.append([row, str(len(group)), str(len(own)), said, size])
    zoo, gpu = cost["fine_tuning"], next(iter(cost["gpus"]))
    needed, free = disk_of(todo, output, at_once)
    parts += [
        grid(table),
        f"GPU-hours of cells: on {zoo['gpu']}, by the seconds per iteration of Detectron2's model "
        f"zoo on {zoo['num_gpus']} of them ({zoo['source']}), for variants that are lighter than "
        "ours; evaluation is not in them. Of a pretraining: counted FLOPs and memory traffic on "
        f"one {gpu} at {cost['share_of_limit']:.0%} of its limit, which is assumed, compiled and "
        f"eager; {cost['pretraining']['images']:,} images per epoch.",
        f"Disk: {needed:.1f} GB are needed, as far as is known; {free:.1f} GB are free at "
        f"{output}. Assumed: a cell keeps one checkpoint (weights and momentum) and has two while "
        f"it runs, {at_once} at once; logs are not counted.",
    ]
    return "\n\n".join(parts)


def gpu_hours_of(stage: Stage, cost: Mapping[str, Any]) -> tuple[float, float] | None:
    """The least and the most; None where that is not known."""
    if stage.kind == CONVERT:
        return 0.0, 0.0
    return (pretraining_hours if stage.kind == PRETRAIN else fine_tuning_hours)(stage, cost)
