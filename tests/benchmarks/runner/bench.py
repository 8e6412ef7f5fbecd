"""A benchmark's YAML and results with stand-ins for what the stages run, in a temporary folder."""

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.__main__ import main
from benchmarks.runner import data, local, matrix, stages
from pretrain.runtime.config import REPOSITORY
from tests.benchmarks.tables.cells import metrics_json

RANDOM = {"method": "random"}

# Says what it does in its folder; does what a file beside the results tells it to.
STAND_IN = """
import json, os, pathlib, signal, sys, time
what, folder, content, orders = sys.argv[1:]
folder = pathlib.Path(folder)
order = json.loads(pathlib.Path(orders).read_text()).get(folder.parent.parent.name, "finish")
print("data root", os.environ.get("DETECTRON2_DATASETS"))
with open(folder / "calls", "a") as calls:
    calls.write(what + "\\n")
if order == "fail":
    print("first line")
    print("CUDA out of memory, as it were")
    sys.exit(3)
if order == "refuse":
    sys.exit(2)
if order == "forget":
    sys.exit(0)
if order == "wait" and not (folder / "saved").exists():
    def save(number, frame):
        (folder / "saved").touch()
        sys.exit(75)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, save)
    (folder / "started").touch()
    time.sleep(60)
    sys.exit("nobody sent a signal")
if order == "slow":
    time.sleep(1)
if order == "meet":
    others = folder.parents[2]
    while len(list(others.glob("*/*/*/calls"))) < 2:
        time.sleep(0.02)
(folder / "metrics.json").write_text(content)
"""

# `python -m benchmarks` with the stand-in; argv: the folder of the benchmark, then the arguments.
DRIVER = """
import sys
from pathlib import Path
from benchmarks.__main__ import main
from tests.benchmarks.runner.bench import use_stand_ins
folder, *arguments = sys.argv[1:]
use_stand_ins(Path(folder), setattr)
sys.exit(main(arguments))
"""

# Trains or converts in an instant
PRETRAIN = """
import pathlib, sys
checkpoints = pathlib.Path(sys.argv[1], "checkpoints")
checkpoints.mkdir(parents=True, exist_ok=True)
(checkpoints / "step_00000001.pth").write_text(sys.argv[2])
with open(checkpoints.parent / "calls", "a") as calls:
    calls.write("x\\n")
"""
CONVERT = """
import pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:])
source = max(source.glob("checkpoints/step_*.pth")) if source.is_dir() else source
sys.exit("truncated") if source.read_text() == "bad" else None
target.write_text("converted " + source.read_text())
"""


def use_stand_ins(folder: Path, replace) -> None:
    """In the place of what the stages run and of ``transfer``, whose import takes seconds.

    replace: setattr, or that of monkeypatch. A data set's hash is what TASK.annotations says.
    """

    def pretrain(init, output):
        words = [str(init.source(output)), init.pretrain.settings["SOLVER.EPOCHS"]]
        return [sys.executable, "-c", PRETRAIN, *words]

    def convert(init, output):
        words = [str(init.source(output)), str(stages.backbone(output, init))]
        return [sys.executable, "-c", CONVERT, *words]

    def fine_tune(cell, asked, output):
        weights = str(stages.backbone(output, cell.init)) if cell.init.stages else "random"
        content = metrics_json(cell.init.name, cell.task, cell.seed, method=cell.init.method)
        words = [weights, str(cell.folder), json.dumps(content), str(folder / "orders.json")]
        return [sys.executable, str(folder / "stand_in.py"), *words]

    def resolve(task, config, overlay, overrides):
        settings = dict(zip(overrides[::2], overrides[1::2], strict=True))
        images = int(settings.get("SOLVER.IMS_PER_BATCH", 16))
        return matrix.FineTuning(config or task, overlay, overrides, settings, 9, images, images)

    def read(request):
        file = folder / f"{request['config']}.annotations"
        found = file.exists()
        sha256 = file.read_text() if found else "5ce7e5" * 10
        return {"read_with": request, "sha256": sha256, "files": {str(file): data._stamp(file)}}

    replace(local, "PERIOD", 0.02)
    replace(stages, "pretrain_command", pretrain)
    replace(stages, "convert_command", convert)
    replace(stages, "fine_tune_command", fine_tune)
    replace(matrix, "resolve", resolve)
    replace(data, "read", read)


class Bench:
    """A benchmark's YAML, its results and the stand-in, in one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "results"
        self.config, self.script = folder / "bench.yaml", folder / "stand_in.py"
        self.orders = folder / "orders.json"
        self.script.write_text(STAND_IN)
        self.write(inits={"random": {"method": "random"}})
        self.order()

    def write(self, **tree) -> None:
        """Write the YAML; two tasks, a seed and no second attempt where nothing else is said."""
        tree = {"tasks": ["coco_c4", "coco_fpn"], "retries": 0} | tree
        self.config.write_text(yaml.safe_dump(tree, sort_keys=False))

    def order(self, **orders) -> None:
        """Tell the stand-in, by init, to finish (as it does untold), fail, forget or wait."""
        self.orders.write_text(json.dumps(orders))

    def words(self, *more: str) -> list[str]:
        return ["run", "--config-file", str(self.config), "--output", str(self.output), *more]

    def run(self, *more: str) -> int:
        return main(self.words(*more))

    def state(self, stage: str) -> dict:
        """What the state file in that folder says."""
        return json.loads((self.output / stage / "state.json").read_text())

    def stages(self) -> dict[str, stages.Stage]:
        """Those of the YAML as it is now, by name."""
        found = stages.all_stages(matrix.load_matrix(self.config), self.output)
        return {stage.name: stage for stage in found}

    def start(self, *more: str) -> subprocess.Popen:
        """The same in a process of its own, that leads a group as under a shell."""
        command = [sys.executable, "-c", DRIVER, str(self.folder), *self.words(*more)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def log(self) -> str:
        return (self.output / "log.txt").read_text()

    def calls(self, cell: str) -> int:
        """How often a cell was started."""
        path = self.output / cell / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


def wait_until(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def with_checkpoint(bench: Bench, content: str = "weights") -> Path:
    """Give the benchmark an init ``clove`` with a checkpoint file beside ``random``."""
    checkpoint = bench.folder / "clove.pth"
    checkpoint.write_text(content)
    clove = {"method": "clove", "checkpoint": str(checkpoint), "epochs": 400}
    bench.write(inits={"clove": clove, "random": {"method": "random"}})
    return checkpoint
