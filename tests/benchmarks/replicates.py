"""Replicates of the scenes benchmark: with stand-ins for its stages, and as they are committed."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks import replicate, stages
from benchmarks.committed import read_replicates
from benchmarks.tables.published import load_published
from benchmarks.scenes_page import page
from pretrain.runtime.config import REPOSITORY
from tests.benchmarks.bench import STAND_IN, use_stand_ins
from tests.benchmarks.tables.cells import VALUES, metrics_json, write_cell

TASKS = ("coco_fpn", "keypoints_fpn")
TASK_INFO = load_published()
METRICS = VALUES | {"keypoints/AP": 30.0}

# What `python -m transfer` leaves beside metrics.json, and `python -m pretrain` beside checkpoints
TRAINING_LOG = """
lines = [{"iteration": 20 * n + 19, "total_loss": 5 / (n + 1), "lr": 0.01} for n in range(200)]
(folder / "training.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
"""
PRETRAIN = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "checkpoints" / "step_00000300.pth").write_text(sys.argv[2])
(run / "provenance.json").write_text(json.dumps({"git_commit": "ba5eba11"}))
chance = {"monitor/match_chance": 0.2}
lines = [{"step": 0, "time": 1.0, "monitor/match_rate": 0.2, **chance}]
for step in range(10, 301, 10):
    lines.append({"step": step, "time": 1.0, "loss": 100 - step / 100, "images_per_second": 4.0})
    if step % 100 == 0:
        lines.append({"step": step, "time": 1.0, "monitor/match_rate": step / 1000, **chance})
(run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
with open(run / "calls", "a") as calls:
    calls.write("x\\n")
"""

# `python -m benchmarks.replicate` with all of that; argv: the folder, then the arguments
DRIVER = """
import signal, sys
from pathlib import Path
from benchmarks.replicate import main
from tests.benchmarks.replicates import use_folder
folder, *arguments = sys.argv[1:]
use_folder(Path(folder), setattr)
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main(arguments))
"""


def use_folder(folder: Path, replace) -> None:
    """Configs, runs and results below ``folder``, stand-ins for the stages and the generator."""

    def pretrain(init, output):
        words = [str(init.source(output)), init.pretrain.settings["SEED"]]
        return [sys.executable, "-c", PRETRAIN, *words]

    def fine_tune(cell):
        own = {"method": cell.init.method, "metrics": METRICS}
        own["main_metric"] = TASK_INFO[cell.task].main_metric
        if cell.init.method == "clove":
            own |= {"weights_sha256": f"{cell.seed:064x}", "pretrain_epochs": 2}
        content = metrics_json(cell.init.name, cell.task, cell.seed, **own)
        words = [cell.weights, str(cell.folder), json.dumps(content), str(folder / "orders.json")]
        return [sys.executable, str(folder / "stand_in.py"), *words]

    def generate(out, request, workers):
        if (out / "scenes.json").exists():
            return None
        (out / "coco" / "unlabeled2017").mkdir(parents=True)
        (out / "scenes.json").write_text(json.dumps(asdict(request)))
        return {}

    use_stand_ins(folder, replace)
    replace(stages, "pretrain_command", pretrain)
    replace(stages, "fine_tune_command", fine_tune)
    replace(replicate.scenes, "generate", generate)
    replace(replicate, "RUNS", folder / "runs")
    replace(replicate, "RESULTS", folder / "scenes_results")
    replace(replicate, "CONFIGS", folder / "configs")


class Lab:
    """A small scenes benchmark of two tasks, in one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.results, self.configs = folder / "scenes_results", folder / "configs"
        (folder / "stand_in.py").write_text(STAND_IN + TRAINING_LOG)
        self.order()
        pretrain = {"config": "configs/pretrain/demo.yaml"}
        inits = {"clove": {"method": "clove", "pretrain": pretrain}, "random": {"method": "random"}}
        self.write("scenes", inits=inits, tasks=list(TASKS), retries=0)
        trained = {"pretrain": None, "checkpoint": f"{self.runs}/SEED/full/clove/pretrain"}
        self.write("scenes-frozen", _BASE_="scenes.yaml", inits={"clove": trained})

    def write(self, name: str, **tree: Any) -> None:
        """A config of the benchmark."""
        self.configs.mkdir(exist_ok=True)
        (self.configs / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def order(self, **orders: str) -> None:
        """As ``Bench.order``."""
        (self.folder / "orders.json").write_text(json.dumps(orders))

    def run(self, *words: str) -> int:
        return replicate.main(words)

    def start(self, *words: str) -> subprocess.Popen:
        """The same in a process of its own."""
        command = [sys.executable, "-c", DRIVER, str(self.folder), *words]
        return subprocess.Popen(
            command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def calls(self, place: str) -> int:
        """How often a stage was started, by its folder below the runs."""
        path = self.runs / place / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def committed(self) -> dict[str, bytes]:
        """Every committed file by its place."""
        files = [path for path in self.results.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.results)): path.read_bytes() for path in files}


# ---------------------------------------------------------------------------------------------
# As they are committed

OF_CELL = "100/full/clove/coco_fpn"
RANDOM_CURVE = {"iteration": [19, 39, 59], "total_loss": [4.0, 3.0, 2.0]}
CLOVE_CURVE = {"iteration": [19, 39, 59], "total_loss": [4.0, 2.0, 1.0]}


def write_replicate(
    results: Path, seed: int, values: dict[str, dict[str, dict[str, float]]], **about: Any
) -> None:
    """values: the main metric by regime, init and task. about: changes to replicate.json."""
    folder, weights = results / str(seed), f"{seed:064x}"
    hours: dict[str, Any] = {"scenes": 0.02}
    for regime, of_inits in values.items():
        hours[regime] = {"fine_tuning": 0.5, "conversion": None}
        for init, of_tasks in of_inits.items():
            for task, value in of_tasks.items():
                write_result(results, seed, regime, init, task, value)
            if init == "clove" and regime != "frozen":
                hours[regime]["pretraining"] = 0.75
                write_json(folder / regime / init / "pretrain.json", pretraining(weights))
    scenes = {"format": 3, "unlabelled": 9, "train": 4, "val": 2, "longest_side": 96}
    scenes |= {"seed": seed, "easy": True}
    content = {"format": 1, "seed": seed, "scenes": scenes, "git_commit": "deadbeef" * 5}
    content |= {"hardware": "CPU, 2 cores", "packages": {"python": "3.11"}, "hours": hours}
    write_json(folder / "replicate.json", content | about)


def write_pairs(results, clove, random, task="coco_fpn", regime="full", first=100):
    """Replicates of one task from ``first`` on."""
    for seed, (a, b) in enumerate(zip(clove, random, strict=True), start=first):
        write_replicate(results, seed, {regime: {"clove": {task: a}, "random": {task: b}}})


def write_result(
    results: Path, seed: int, regime: str, init: str, task: str, value: float, **changes: Any
) -> Path:
    """One task's two files; returns the place of metrics.json."""
    metric = TASK_INFO[task].main_metric
    own = {"metrics": {metric: value}, "main_metric": metric, "method": init}
    own |= {"weights_sha256": f"{seed:064x}"} if init == "clove" else {}
    folder = results / str(seed) / regime
    written = write_cell(folder, init, task, seed, **own | changes)
    path = folder / init / task / "metrics.json"
    written.rename(path)
    written.parent.rmdir()
    write_json(path.with_name("curve.json"), CLOVE_CURVE if init == "clove" else RANDOM_CURVE)
    return path


def pretraining(weights: str, **changes: Any) -> dict[str, Any]:
    """The content of pretrain.json."""
    match = {"step": [0, 100], "match_rate": [0.2, 0.6], "match_chance": [0.2, 0.2]}
    hashes = {"checkpoint_sha256": weights, "backbone_sha256": weights, "config_sha256": "c0" * 32}
    loss = {"step": [50, 100], "loss": [100.0, 99.0]}
    more = {"git_commit": "deadbeef" * 5, "seconds": 2700.0}
    return {"loss": loss, "match_rate": match, **hashes, **more} | changes


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def page_of(results: Path, again: Path = Path("nowhere")) -> str:
    return page(read_replicates(results), read_replicates(again), "SCENES.svg")


def rows_of(text: str, heading: str) -> list[dict[str, str]]:
    """The lines of the first table below ``heading``, by the names of their columns."""
    below = text[text.index(heading) + len(heading) :]
    table = below[below.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
