"""Replicates of the scenes benchmark: with a stand-in for the runner, and as they are kept."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.evidence import replicate
from benchmarks.evidence.__main__ import main
from benchmarks.evidence.page import page
from benchmarks.evidence.rows import SCENES, read_replicates, read_rows, write_rows
from benchmarks.runner.matrix import load_matrix
from benchmarks.runner.stages import backbone
from benchmarks.tables.published import load_published
from tests.benchmarks.tables.cells import VALUES, metrics_json, write_cell

TASKS = ("coco_fpn", "keypoints_fpn")
TASK_INFO = load_published()


class Lab:
    """A scenes benchmark of two tasks in a temporary folder, and a runner that only writes."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.results, self.configs = folder / "results", folder / "configs"
        self.calls: Counter[str] = Counter()  # of the stages, by their folder below the runs
        self.fail, self.slots = "", 0  # the task that fails; as the runner was told
        for name, own in (
            ("RUNS", self.runs),
            ("RESULTS", self.results),
            ("CONFIGS", self.configs),
        ):
            monkeypatch.setattr(replicate, name, own)
        monkeypatch.setattr(replicate, "run", self.run_matrix)
        monkeypatch.setattr(replicate.scenes, "generate", self.generate)
        pretrain = {"config": "configs/pretrain/demo.yaml"}
        inits = {"clove": {"method": "clove", "pretrain": pretrain}, "random": {"method": "random"}}
        self.write("scenes", inits=inits, tasks=list(TASKS), retries=0)
        self.trained = {"pretrain": None, "checkpoint": f"{self.runs}/SEED/full/clove/pretrain"}
        self.write("scenes-frozen", _BASE_="scenes.yaml", inits={"clove": self.trained})

    def write(self, name: str, **tree: Any) -> None:
        """A config of the benchmark."""
        self.configs.mkdir(exist_ok=True)
        (self.configs / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def run(self, *words: str) -> int:
        return main(["replicate", *words])

    def table(self, name: str, **of: Any) -> list[dict[str, Any]]:
        """The rows of a CSV file that have these values."""
        return [row for row in read_rows(self.results, name) if of.items() <= row.items()]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.results.glob("*")}

    def generate(self, out: Path, request, workers: int) -> dict | None:
        if (out / "scenes.json").exists():
            return None
        (out / "coco" / "unlabeled2017").mkdir(parents=True)
        (out / "scenes.json").write_text(json.dumps(asdict(request)))
        return {}

    def run_matrix(self, config: str, output: Path, slots: int) -> int:
        """What ``python -m benchmarks run`` leaves, of what is not there yet."""
        self.slots, matrix = slots, load_matrix(config)
        for init in matrix.inits:
            if init.stages and not backbone(output, init).exists():
                if init.pretrain is not None:
                    self._pretrain(init.source(output), init.pretrain.settings["SEED"])
                output.joinpath(init.name).mkdir(parents=True, exist_ok=True)
                backbone(output, init).write_text("converted")
        for cell in matrix.cells(output):
            if self.fail == cell.task:
                return 1
            if not (cell.folder / "metrics.json").exists():
                self.calls[str(cell.folder.relative_to(self.runs))] += 1
                own = {"method": cell.init.method, "metrics": VALUES | {"keypoints/AP": 30.0}}
                own["main_metric"] = TASK_INFO[cell.task].main_metric
                if cell.init.method == "clove":
                    own |= {"weights_sha256": f"{cell.seed:064x}", "pretrain_epochs": 2}
                write_cell(output, cell.init.name, cell.task, cell.seed, **own)
                log = [{"iteration": 20 * n + 19, "total_loss": 5 / (n + 1)} for n in range(200)]
                write_log(cell.folder / "training.jsonl", log)
        return 0

    def _pretrain(self, run: Path, seed: str) -> None:
        self.calls[str(run.relative_to(self.runs))] += 1
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "step_00000300.pth").write_text(seed)
        (run / "provenance.json").write_text(json.dumps({"git_commit": "ba5eba11"}))
        log = [{"step": n, "loss": 100 - n / 100, "images_per_second": 4.0} for n in PLACES]
        chance = {"monitor/match_chance": 0.2}
        log += [{"step": n, "monitor/match_rate": n / 1000, **chance} for n in (0, 100, 200, 300)]
        write_log(run / "metrics.jsonl", log)


PLACES = range(10, 301, 10)


def write_log(path: Path, lines: list[Any]) -> None:
    """One object a line; text as it is."""
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))


# ---------------------------------------------------------------------------------------------
# As they are kept

STEPS = (19, 39, 59)
LOSSES = {"random": (4.0, 3.0, 2.0), "clove": (4.0, 2.0, 1.0)}


def write_replicate(
    results: Path, seed: int, values: dict[str, dict[str, dict[str, float]]], run: int = 1
) -> None:
    """values: the main metric by regime, init and task."""
    key, weights = {"run": run, "seed": seed}, f"{seed:064x}"
    about = key | dict(zip(SCENES, (3, 9, 4, 2, 96, 1), strict=True))
    about |= {"hours": 0.02, "git_commit": "deadbeef" * 5, "hardware": "CPU, 2 cores"}
    write_rows(results, "replicates", key, [about | {"packages": "python 3.11"}])
    for regime, of_inits in values.items():
        own = key | {"regime": regime, "init": "clove"}
        if "clove" in of_inits:
            hashes = {"checkpoint_sha256": weights, "backbone_sha256": weights}
            hashes |= {"config_sha256": "c0" * 32, "git_commit": "deadbeef" * 5, "seconds": 2700.0}
            row = own | (dict.fromkeys(hashes) if regime == "frozen" else hashes)
            write_rows(results, "pretraining", own, [row | {"conversion_hours": None}])
            curves = {"match_rate": (0.2, 0.6), "match_chance": (0.2, 0.2)}
            write_curves(results, own | {"task": "pretraining"}, (0, 100), curves)
        for init, of_tasks in of_inits.items():
            for task, value in of_tasks.items():
                write_result(results, seed, regime, init, task, value, run)


def write_pairs(results, clove, random, task="coco_fpn", regime="full", first=100):
    """Replicates of one task from ``first`` on."""
    for seed, (a, b) in enumerate(zip(clove, random, strict=True), start=first):
        write_replicate(results, seed, {regime: {"clove": {task: a}, "random": {task: b}}})


def write_result(
    results: Path, seed: int, regime: str, init: str, task: str, value: float, run=1, **changes: Any
) -> None:
    """A cell, its main metric and its curve."""
    key = {"run": run, "seed": seed, "regime": regime, "init": init, "task": task}
    content = metrics_json(init, task, seed)
    own = {"pretrain_epochs": None, "train_images": 4, "test_images": 2}
    own |= {"data_sha256": content["data"]["sha256"]}
    own |= {"weights_sha256": f"{seed:064x}" if init == "clove" else None}
    names = ("config_sha256", "iterations", "images_per_batch", "images_per_bn_batch")
    own |= {name: content[name] for name in names} | {"seconds": 1800.0}
    own |= {"hardware": "CPU, 2 cores", "git_commit": "deadbeef" * 5}
    write_rows(results, "cells", key, [key | own | changes])
    metric = TASK_INFO[task].main_metric
    write_rows(results, "results", key, [key | {"metric": metric, "value": value}])
    write_curves(results, key, STEPS, {"total_loss": LOSSES[init]})


def write_curves(results, key, steps, values) -> None:
    rows = [
        key | {"quantity": quantity, "step": step, "value": value}
        for quantity, own in values.items()
        for step, value in zip(steps, own, strict=True)
    ]
    write_rows(results, "curves", key, rows)


def page_of(results: Path) -> str:
    return page(read_replicates(results), read_replicates(results, run=2), "SCENES.svg")


def rows_of(text: str, heading: str) -> list[dict[str, str]]:
    """The lines of the first table below ``heading``, by the names of their columns."""
    below = text[text.index(heading) + len(heading) :]
    table = below[below.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
