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
TRACED_BATCH = 256  # images of the micro-step whose traffic is counted


def load_cost() -> dict[str, Any]:
    """The facts and assumptions."""
    return load_yaml(COST_YAML)


def flops_per_image(pretraining: Mapping[str, Any]) -> int:
    """Of all parts, forward and backward."""
    return sum(sum(part.values()) for part in pretraining["flops_per_image"].values())


def limits(gpu: Mapping[str, Any], pretraining: Mapping[str, Any]) -> dict[str, float]:
    """Images/s of one GPU in bf16, were it to reach its full rate of one kind.

    ``compute`` by its arithmetic, ``eager`` and ``compiled`` by the memory traffic of that way.
    """
    found = {"compute": gpu["bf16_tflops"] * 1e12 / flops_per_image(pretraining)}
    for way, traffic in pretraining["traffic_gb"].items():
        found[way] = gpu["gb_per_second"] * TRACED_BATCH / traffic["bf16"]
    return found


def expected(gpu: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, float]:
    """Images/s that one GPU may reach, eager and compiled: a share of the lower limit."""
    compute, *ways = limits(gpu, cost["pretraining"]).items()
    return {way: cost["share_of_limit"] * min(compute[1], limit) for way, limit in ways}


def held(memory: Mapping[str, Mapping[str, Any]], batch: int, precision: str) -> float:
    """Bytes that one GPU holds when the backward pass of ``batch`` images begins."""

    def total(part: Mapping[str, Any]) -> int:
        return sum(n[precision] if isinstance(n, dict) else n for n in part.values())

    return total(memory["fixed"]) + batch * total(memory["per_image"])


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
    pretraining, gpus = cost["pretraining"], cost["gpus"]
    flops, log = flops_per_image(pretraining), pretraining["authors_log"]
    rates = {name: expected(gpu, cost) for name, gpu in gpus.items()}

    counts = {name: [*part.values()] for name, part in pretraining["flops_per_image"].items()}
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    flops_table = [["GFLOP", "forward", "backward", "both"]]
    for name, both in counts.items():
        flops_table.append([_words(name), *(f"{n / 1e9:.2f}" for n in (*both, sum(both)))])

    traffic = pretraining["traffic_gb"]
    traffic_table = [["GB per 256 images", *traffic["eager"]]]
    for way, by_precision in traffic.items():
        cells = (by_precision.get(precision, "–") for precision in traffic["eager"])
        traffic_table.append([way, *map(str, cells)])

    limits_table = [["GPU", "TFLOP/s", "GB/s", "arithmetic", "memory, eager", "memory, compiled"]]
    limits_table[0] += ["expected, eager", "expected, compiled"]
    per_core = cost["loader"]["images_per_second_per_core"]["worker"]
    cores_table = [["GPU", "eager", "compiled"]]
    for name, gpu in gpus.items():
        found = [*limits(gpu, pretraining).values(), *rates[name].values()]
        row = [name, str(gpu["bf16_tflops"]), str(gpu["gb_per_second"])]
        limits_table.append(row + [f"{rate:,.0f}" for rate in found])
        cores_table.append([name, *(str(math.ceil(r / per_core)) for r in rates[name].values())])

    kinds = {f"hours on {cost['num_gpus']}": cost["num_gpus"], "GPU-hours": 1}
    hours_table = [["recipe", "GPU", *(f"{kind}, {way}" for kind in kinds for way in traffic)]]
    for recipe in pretraining["recipes"]:
        for name, ways in rates.items():
            hours = [gpu_hours(pretraining["images"] * epochs(recipe), r) for r in ways.values()]
            cells = [f"{each / n:,.1f}" for n in kinds.values() for each in hours]
            hours_table.append([Path(recipe).stem, name, *cells])

    precisions = traffic["eager"]
    memory = pretraining["memory_bytes"]
    parts_table = [["part", *(f"MB, {precision}" for precision in precisions), ""]]
    for kind, parts in memory.items():
        for name, n in parts.items():
            by_precision = n if isinstance(n, dict) else dict.fromkeys(precisions, n)
            cells = (f"{by_precision[precision] / 1e6:.1f}" for precision in precisions)
            parts_table.append([_words(name), *cells, _words(kind)])
    sizes_table = [["images per GPU", *(f"GB, {precision}" for precision in precisions)]]
    for size in pretraining["batch_sizes"]:
        cells = (f"{held(memory, size, precision) / 1e9:.1f}" for precision in precisions)
        sizes_table.append([str(size), *cells])

    rate = log["images"] / log["seconds"]
    reached = [
        f"{100 * rate / limits(gpu, pretraining)['compute']:.1f} % of an {name}'s rate"
        for name, gpu in gpus.items()
    ]
    return TEMPLATE.read_text().format(
        **cost,
        percent=f"{100 * cost['share_of_limit']:.0f}",
        flops_table=grid(flops_table),
        traffic=grid(traffic_table),
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
