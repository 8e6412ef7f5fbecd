"""``python -m benchmarks.speed.cost``: COST.md, what a pretraining costs, from ``cost.yaml``.

Counts, published rates and assumed shares of them: nothing here runs a model.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables.markdown import grid
from pretrain.config import get_cfg
from pretrain.runtime.config import load_yaml, merge
from pretrain.runtime.files import write_text

COST_YAML = Path(__file__).parents[1] / "cost.yaml"
COST_MD = COST_YAML.with_name("COST.md")

TEMPLATE = Path(__file__).with_name("cost_page.md")


def load_cost() -> dict[str, Any]:
    """The facts and assumptions."""
    return load_yaml(COST_YAML)


def flops_per_image(pretraining: Mapping[str, Any]) -> int:
    """Of all parts, forward and backward."""
    return sum(sum(part.values()) for part in pretraining["flops_per_image"].values())


def images_per_second(gpu: Mapping[str, Any], flops: float, share: float = 1.0) -> float:
    """Of one GPU that reaches ``share`` of its published rate, at ``flops`` for each image."""
    return share * gpu["bf16_tflops"] * 1e12 / flops


def gpu_hours(images: int, per_second: float) -> float:
    """What ``images``, all epochs counted, take one GPU; on n GPUs 1/n of it passes."""
    return images / per_second / 3600


def epochs(recipe: str) -> int:
    """SOLVER.EPOCHS of a pretraining config."""
    cfg = get_cfg()
    merge(cfg, recipe)
    return cfg.SOLVER.EPOCHS


def page(cost: Mapping[str, Any]) -> str:
    """COST.md."""
    pretraining, gpus, shares = cost["pretraining"], cost["gpus"], cost["shares_of_limit"]
    flops, log = flops_per_image(pretraining), pretraining["authors_log"]
    limits = {name: images_per_second(gpu, flops) for name, gpu in gpus.items()}
    percents = [f"{100 * share:.0f} %" for share in shares]

    counts = {name: [*part.values()] for name, part in pretraining["flops_per_image"].items()}
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    flops_table = [["GFLOP", "forward", "backward", "both"]]
    for name, both in counts.items():
        flops_table.append([_words(name), *(f"{n / 1e9:.2f}" for n in (*both, sum(both)))])

    limits_table = [["GPU", "TFLOP/s", "100 %", *percents]]
    per_core = cost["loader"]["images_per_second_per_core"]["worker"]
    cores_table = [["GPU", *percents]]
    for name, limit in limits.items():
        rates = [f"{share * limit:,.0f}" for share in (1, *shares)]
        limits_table.append([name, str(gpus[name]["bf16_tflops"]), *rates])
        cores_table.append([name, *(str(math.ceil(s * limit / per_core)) for s in shares)])

    kinds = {f"hours on {cost['num_gpus']}": cost["num_gpus"], "GPU-hours": 1}
    hours_table = [["recipe", "GPU", *(f"{kind}, {p}" for kind in kinds for p in percents)]]
    for recipe in pretraining["recipes"]:
        for name, limit in limits.items():
            hours = [gpu_hours(pretraining["images"] * epochs(recipe), s * limit) for s in shares]
            cells = [f"{each / n:,.1f}" for n in kinds.values() for each in hours]
            hours_table.append([Path(recipe).stem, name, *cells])

    parts_table = [["part", "MB", ""]]
    for kind, counts in pretraining["memory_bytes"].items():
        for name, count in counts.items():
            parts_table.append([_words(name), f"{count / 1e6:.1f}", _words(kind)])
    sizes_table = [["images per GPU", "GB"]]
    memory = {name: sum(part.values()) for name, part in pretraining["memory_bytes"].items()}
    for size in pretraining["batch_sizes"]:
        held = memory["fixed"] + size * memory["per_image"]
        sizes_table.append([str(size), f"{held / 1e9:.1f}"])

    rate = log["images"] / log["seconds"]
    reached = [f"{100 * rate / limits[name]:.1f} % of an {name}'s rate" for name in gpus]
    return TEMPLATE.read_text().format(
        **cost,
        flops_table=grid(flops_table),
        limits=grid(limits_table),
        hours=grid(hours_table),
        log=log,
        log_rate=rate,
        log_hours=gpu_hours(pretraining["images"] * 200, rate),
        log_tflops=rate * flops / 1e12,
        log_shares=" or ".join(reached),
        num_workers=get_cfg().DATA.NUM_WORKERS,
        cores=grid(cores_table),
        gpu_sizes=", ".join(f"{name} {gpu['memory_gb']} GB" for name, gpu in gpus.items()),
        memory_parts=grid(parts_table),
        memory_sizes=grid(sizes_table),
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


if __name__ == "__main__":
    write_text(COST_MD, page(load_cost()))
