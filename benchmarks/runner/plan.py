"""What a matrix will take, before anything runs: cells, GPU-hours and disk."""

import functools
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runner.matrix import CONVERT, PRETRAIN, Matrix
from benchmarks.runner.stages import Stage, stages_to_do
from benchmarks.speed.cost import flops_per_image, gpu_hours, images_per_second, load_cost
from benchmarks.tables.markdown import grid
from benchmarks.tables.published import load_published
from pretrain.runtime.config import ConfigError, flatten, is_within

UNKNOWN = "unknown"
_published = functools.cache(load_published)
# What the cost of an image was counted with
# What decides the operations of a step; the loss's own numbers are in METHOD, too
GEOMETRY = ("METHOD", "ENCODER", "CROPS.GLOBAL_SIZE", "CROPS.NUM_LOCALS", "CROPS.LOCAL_SIZE")


def fine_tuning_hours(stage: Stage, cost: Mapping[str, Any]) -> float | None:
    """GPU-hours of a cell, as the model zoo's time per iteration has it; None where that is not for
    such images and batches."""
    zoo, asked = cost["fine_tuning"], stage.fine_tuning
    known, task = zoo["tasks"].get(stage.kind), _published().get(stage.kind)
    if known is None or task.schedule is None or asked.overlay is not None:
        return None
    if asked.images_per_batch != task.schedule.images_per_batch:
        return None
    return known["seconds_per_iteration"] * asked.iterations * zoo["num_gpus"] / 3600


def pretraining_hours(stage: Stage, cost: Mapping[str, Any]) -> tuple[float, float] | None:
    """GPU-hours of a pretraining at the largest and the least assumed share of the first GPU's
    rate; None for networks or views that were not counted."""
    from pretrain.config import get_cfg
    from pretrain.methods import complete

    settings, counted = stage.init.pretrain.settings, flatten(complete(get_cfg()))
    if any(is_within(key, GEOMETRY) and settings.get(key) != str(counted[key]) for key in counted):
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
        from pretrain.config import get_cfg

        fixed = cost["pretraining"]["memory_bytes"]["fixed"]
        checkpoint = sum(fixed[part] for part in ("student", "momentum", "teacher"))
        return checkpoint * (get_cfg().CHECKPOINT.KEEP + 1)
    return cost["fine_tuning"]["tasks"].get(stage.kind, {}).get("checkpoint_bytes")


def require_disk(todo: Sequence[Stage], output: Path, at_once: int) -> None:
    """Raise ConfigError where there is no space for what is not done yet."""
    needed, free = needed_bytes(todo, at_once), free_bytes(output)
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
    cells = [stage for stage in stages if stage.is_cell]
    done = sum(cell.name not in names for cell in cells)
    inits = f"{len(matrix.inits)} inits, {len(matrix.tasks)} tasks"
    parts = [f"{matrix.config}: {inits}, {len(cells)} cells, {done} of them done"]
    if missing := matrix.missing():
        parts.append("missing, so that nothing can run:\n" + "\n".join(f"  {m}" for m in missing))
    wanted = names | {stage.needs for stage in todo}
    rows: dict[str, list[Stage]] = {}
    for stage in stages:
        if stage.is_cell or stage.name in wanted:
            rows.setdefault(stage.kind if stage.is_cell else stage.name, []).append(stage)
    head = ["stage or task", "in all", "to run", "GPU-hours", "GB"]
    lines = [_row(row, group, names, cost) for row, group in rows.items()]
    hours = [fine_tuning_hours(cell, cost) for cell in todo if cell.is_cell]
    zoo, gpu, shares = cost["fine_tuning"], next(iter(cost["gpus"])), cost["shares_of_limit"]
    unknown = hours.count(None)
    needed, free = needed_bytes(todo, at_once), free_bytes(output)
    least = "at least " if None in [disk_bytes(stage, cost) for stage in todo] else ""
    parts += [
        grid([head, *lines]),
        f"GPU-hours of the cells: {sum(filter(None, hours)):,.0f} on {zoo['gpu']}"
        f"{f', and those of {unknown} cells that are not known' if unknown else ''}. Seconds per "
        f"iteration are those of Detectron2's model zoo on {zoo['num_gpus']} of them "
        f"({zoo['source']}), for variants that are lighter than ours; evaluation is not in them.",
        f"Disk: {least}{_gb(needed)} GB are needed, {_gb(free)} GB are free at {output}. Assumed: "
        "a cell keeps one checkpoint (weights and momentum) and has two while it runs, "
        f"{at_once} at once; logs are not counted.",
    ]
    if any(stage.kind == PRETRAIN for stage in todo):
        parts.append(
            f"GPU-hours of a pretraining: counted FLOPs on one {gpu} at {max(shares):.0%} to "
            f"{min(shares):.0%} of its rate, which is assumed; {cost['pretraining']['images']:,} "
            "images per epoch."
        )
    return "\n\n".join(parts)


def _row(
    name: str, stages: Sequence[Stage], names: Collection[str], cost: Mapping[str, Any]
) -> list[str]:
    """One of a task's cells, or of a stage before cells; names: of what is to run."""
    todo = [stage for stage in stages if stage.name in names]
    hours, sizes = "", [disk_bytes(stage, cost) for stage in todo]
    if stages[0].is_cell:
        of_cells = [fine_tuning_hours(cell, cost) for cell in todo]
        hours = UNKNOWN if None in of_cells else f"{sum(of_cells):,.0f}"
    elif stages[0].kind == PRETRAIN and todo:
        both = pretraining_hours(stages[0], cost)
        hours = UNKNOWN if both is None else f"{both[0]:,.0f} to {both[1]:,.0f}"
    size = UNKNOWN if None in sizes else _gb(sum(sizes))
    return [name, str(len(stages)), str(len(todo)), hours, size]


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
