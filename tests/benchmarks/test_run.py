"""The matrix: what is checked first, what runs, what is skipped, what goes on after a signal.

A small script stands in for ``python -m transfer`` and ``python -m transfer.convert``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks import run as run_module
from benchmarks.__main__ import main
from benchmarks.matrix import backbone, load_matrix
from pretrain.runtime.config import REPOSITORY, ConfigError, load_yaml
from tests.benchmarks.cells import metrics_json, write_cell

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
if order == "forget":
    sys.exit(0)
if order == "wait" and not (folder / "saved").exists():
    def save(number, frame):
        (folder / "saved").touch()
        sys.exit(75)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, save)
    (folder / "started").touch()
    time.sleep(60)
    sys.exit("nobody sent a signal")
(folder / "metrics.json").write_text(content)
"""

# `python -m benchmarks` with the stand-in; argv: the script, the orders, then the arguments.
DRIVER = """
import sys
from pathlib import Path
from benchmarks import run
from benchmarks.__main__ import main
from tests.benchmarks.test_run import fake_command
script, orders, *arguments = sys.argv[1:]
run.fine_tune_command = lambda cell: fake_command(cell, script, orders)
sys.exit(main(arguments))
"""


def fake_command(cell, script, orders) -> list[str]:
    content = metrics_json(cell.init.name, cell.task, cell.seed, method=cell.init.method)
    arguments = [cell.weights, str(cell.folder), json.dumps(content), str(orders)]
    return [sys.executable, str(script), *arguments]


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
        """Write the YAML; two tasks and a seed where nothing else is said."""
        self.config.write_text(yaml.safe_dump({"tasks": ["coco_c4", "coco_fpn"]} | tree))

    def order(self, **orders) -> None:
        """Tell the stand-in, by init, to finish (as it does untold), fail, forget or wait."""
        self.orders.write_text(json.dumps(orders))

    def run(self) -> int:
        return main(["run", "--config-file", str(self.config), "--output", str(self.output)])

    def start(self) -> subprocess.Popen:
        """The same in a process of its own, that leads a group as under a shell."""
        command = [sys.executable, "-c", DRIVER, str(self.script), str(self.orders)]
        command += ["run", "--config-file", str(self.config), "--output", str(self.output)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def log(self) -> str:
        return (self.output / "log.txt").read_text()

    def calls(self, cell: str) -> int:
        """How often a cell was started."""
        path = self.output / cell / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    bench = Bench(tmp_path)

    def convert(init, output):
        code = (
            "import pathlib, sys; source, target = map(pathlib.Path, sys.argv[1:]); "
            "text = source.read_text(); sys.exit('truncated') if text == 'bad' else None; "
            "target.write_text('converted ' + text)"
        )
        return [sys.executable, "-c", code, str(init.checkpoint), str(backbone(output, init))]

    def fine_tune(cell):
        return fake_command(cell, bench.script, bench.orders)

    monkeypatch.setattr(run_module, "convert_command", convert)
    monkeypatch.setattr(run_module, "fine_tune_command", fine_tune)
    return bench


def with_checkpoint(bench: Bench, content: str = "weights") -> Path:
    """Give the benchmark an init ``clove`` with a checkpoint file beside ``random``."""
    checkpoint = bench.folder / "clove.pth"
    checkpoint.write_text(content)
    clove = {"method": "clove", "checkpoint": str(checkpoint), "epochs": 400}
    bench.write(inits={"clove": clove, "random": {"method": "random"}})
    return checkpoint


def test_every_cell_runs_into_a_folder_of_its_own(bench):
    with_checkpoint(bench)
    assert bench.run() == 0
    for init in ("clove", "random"):
        for task in ("coco_c4", "coco_fpn"):
            assert bench.calls(f"{init}/{task}/seed0") == 1
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted weights"
    calls = bench.output / "clove" / "coco_fpn" / "seed0" / "calls"
    assert calls.read_text() == f"{bench.output / 'clove' / 'backbone.pth'}\n"
    assert "cell 4 of 4: random/coco_fpn/seed0 took" in bench.log()
    assert "bbox/AP 12.50" in bench.log()


def test_cells_with_metrics_are_skipped(bench):
    write_cell(bench.output, task="coco_c4")
    assert bench.run() == 0
    assert "1 of 2 cells are done" in bench.log()
    assert bench.calls("random/coco_c4/seed0") == 0
    assert bench.calls("random/coco_fpn/seed0") == 1
    assert bench.run() == 0
    assert "2 of 2 cells are done" in bench.log()
    assert bench.calls("random/coco_fpn/seed0") == 1


def test_a_failing_cell_keeps_its_log_and_stops_no_other(bench, capsys):
    bench.write(inits={"a": {"method": "random"}, "b": {"method": "random"}})
    bench.order(a="fail")
    assert bench.run() == 1
    assert bench.calls("b/coco_c4/seed0") == bench.calls("b/coco_fpn/seed0") == 1
    end = capsys.readouterr().err.split("failed: ", 1)[1]
    for task in ("coco_c4", "coco_fpn"):
        assert f"a/{task}/seed0: exit code 3" in end
        assert str(bench.output / "a" / task / "seed0" / "stdout.log") in end
    assert end.count("CUDA out of memory, as it were") == 2

    bench.order(a="finish")
    assert bench.run() == 0
    assert bench.calls("a/coco_c4/seed0") == 2
    assert bench.calls("b/coco_c4/seed0") == 1
    log = (bench.output / "a" / "coco_c4" / "seed0" / "stdout.log").read_text()
    assert "CUDA out of memory" in log


def test_a_cell_that_ends_without_metrics_has_failed(bench):
    bench.order(random="forget")
    assert bench.run() == 1
    assert "ended without metrics.json" in bench.log()


def test_a_failing_conversion_stops_only_its_own_init(bench):
    with_checkpoint(bench, "bad")
    assert bench.run() == 1
    assert bench.calls("random/coco_c4/seed0") == 1
    assert bench.calls("clove/coco_c4/seed0") == 0
    assert "clove (conversion): exit code 1" in bench.log()
    assert "truncated" in bench.log()


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["ctrl-c", "sigint alone", "sigterm alone"],
)
def test_interrupted_run_saves_its_cell_and_the_same_command_goes_on(bench, number, to_group):
    bench.write(inits={"a": {"method": "random"}, "b": {"method": "random"}})
    bench.order(b="wait")
    process = bench.start()
    cell = bench.output / "b" / "coco_c4" / "seed0"
    while process.poll() is None and not (cell / "started").exists():
        time.sleep(0.05)
    (os.killpg if to_group else os.kill)(process.pid, number)
    error = process.communicate()[1]
    assert process.returncode == 75, error
    assert "interrupted with 1 of 4 cells done; the same command goes on from here" in error
    assert (cell / "saved").exists()
    assert not (cell / "metrics.json").exists()

    bench.order()
    process = bench.start()
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert "1 of 4 cells are done" in error
    assert bench.calls("a/coco_c4/seed0") == 1
    assert bench.calls("b/coco_c4/seed0") == 2


def test_conversion_is_done_once_for_a_checkpoint(bench):
    checkpoint = with_checkpoint(bench)
    assert bench.run() == 0
    converted = bench.output / "clove" / "backbone.pth"
    converted.write_text("kept")
    (bench.output / "clove" / "coco_c4" / "seed0" / "metrics.json").unlink()
    os.utime(checkpoint, ns=(0, 0))  # the same bytes at another time
    assert bench.run() == 0
    assert converted.read_text() == "kept"
    record = json.loads((bench.output / "clove" / "source.json").read_text())
    assert record["modified_ns"] == 0


def test_changed_checkpoint_stops_before_anything_and_names_its_cells(bench, capsys):
    with_checkpoint(bench)
    assert bench.run() == 0
    metrics = bench.output / "clove" / "coco_c4" / "seed0" / "metrics.json"
    unfinished = bench.output / "clove" / "coco_fpn" / "seed0"
    (unfinished / "metrics.json").unlink()
    with_checkpoint(bench, "longer weights")
    capsys.readouterr()
    assert bench.run() == 2
    error = capsys.readouterr().err
    assert f"{metrics.parent}: another checkpoint" in error
    assert f"{unfinished}: another checkpoint" in error
    assert "random" not in error
    assert metrics.exists()
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted weights"

    (bench.output / "clove").rename(bench.folder / "moved away")
    assert bench.run() == 0
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted longer weights"
    assert bench.calls("random/coco_c4/seed0") == 1


def test_checkpoint_may_change_while_no_cell_has_begun(bench):
    with_checkpoint(bench, "bad")
    assert bench.run() == 1
    with_checkpoint(bench, "weights")
    assert bench.run() == 0


def test_changed_overrides_stop_the_run_too(bench, capsys):
    assert bench.run() == 0
    init = {"random": {"method": "random"}}
    bench.write(inits=init, task_overrides={"coco_fpn": {"SOLVER.MAX_ITER": 5}})
    assert bench.run() == 2
    error = capsys.readouterr().err
    assert "coco_fpn/seed0: another overrides" in error
    assert "coco_c4/seed0:" not in error


def test_newest_checkpoint_of_a_run_folder_is_taken(bench):
    folder = bench.folder / "pretrain" / "checkpoints"
    folder.mkdir(parents=True)
    for step in ("00000900", "00010000", "00002000"):
        (folder / f"step_{step}.pth").write_text(step)
    (folder / "step_draft.pth").touch()
    bench.write(inits={"clove": {"method": "clove", "checkpoint": str(folder.parent)}})
    assert bench.run() == 0
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted 00010000"


def test_data_root_of_the_yaml_wins_over_the_users(bench, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "the users own")
    log = bench.output / "random" / "coco_c4" / "seed0" / "stdout.log"
    bench.run()
    assert "data root the users own" in log.read_text()
    (log.parent / "metrics.json").unlink()
    scenes = bench.folder / "scenes"
    scenes.mkdir()
    bench.write(inits={"random": {"method": "random"}}, datasets=str(scenes))
    bench.run()
    assert f"data root {scenes}" in log.read_text()


def test_commands_carry_what_the_yaml_says(bench, monkeypatch):
    monkeypatch.undo()
    with_checkpoint(bench)
    tree = yaml.safe_load(bench.config.read_text())
    tree["inits"]["clove"]["overrides"] = {"INPUT.FORMAT": "BGR", "SOLVER.BASE_LR": 0.5}
    tree["overlay"] = "configs/benchmarks/demo.yaml"  # any file will do
    overrides = {"SOLVER": {"MAX_ITER": 3, "STEPS": "(2,)"}}
    task_overrides = {"coco_fpn": {"SOLVER.BASE_LR": 0.1, "SOLVER.MAX_ITER": 4}}
    bench.write(**tree, seeds=[7], overrides=overrides, task_overrides=task_overrides)
    matrix = load_matrix(bench.config)
    cells = {cell.name: cell for cell in matrix.cells(bench.output)}
    cell = cells["clove/coco_fpn/seed7"]
    weights = str(bench.output / "clove" / "backbone.pth")
    command = " ".join(run_module.fine_tune_command(cell)[1:])
    assert command == (
        f"-m transfer --task coco_fpn --weights {weights} --output {cell.folder} --seed 7 "
        f"--init clove --overlay {REPOSITORY / 'configs/benchmarks/demo.yaml'} --resume "
        "SOLVER.MAX_ITER 4 SOLVER.STEPS (2,) SOLVER.BASE_LR 0.5 INPUT.FORMAT BGR"
    )
    random = run_module.fine_tune_command(cells["random/coco_c4/seed7"])
    assert random[random.index("--weights") + 1] == "random"
    convert = run_module.convert_command(matrix.inits[0], bench.output)
    assert convert[1:] == [
        *("-m", "transfer.convert", str(bench.folder / "clove.pth"), weights),
        *("--method", "clove"),
    ]


def test_a_yaml_of_ones_own_is_a_task_called_as_its_file(bench, monkeypatch):
    monkeypatch.undo()
    own = bench.folder / "cells.yaml"
    own.write_text("_BASE_: configs/transfer/coco/mask_rcnn_R_50_FPN_1x.yaml\n")
    bench.write(
        inits={"random": RANDOM},
        tasks=["coco_c4", str(own)],
        task_overrides={"cells": {"SOLVER.MAX_ITER": 3}},
    )
    matrix = load_matrix(bench.config)
    cell = matrix.cells(bench.output)[1]
    assert cell.name == "random/cells/seed0"
    assert f"-m transfer --config-file {own} --weights" in " ".join(
        run_module.fine_tune_command(cell)
    )
    assert cell.overrides == {"SOLVER.MAX_ITER": "3"}
    assert matrix.summary()["tasks"] == ["coco_c4", "cells"]


RANDOM = {"method": "random"}
TASK_YAML = "configs/transfer/coco/mask_rcnn_R_50_C4_1x.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [0]}, "unknown key seed (did you mean seeds?)"),
        ({"inits": {"a": RANDOM | {"epoch": 3}}}, "unknown key epoch (did you mean epochs?)"),
        ({"inits": {"A-b": RANDOM}}, "'A-b' is not a name of lower-case letters"),
        ({"inits": {}}, "expected a mapping name: settings"),
        ({"inits": {"a": {"method": "colve"}}}, "did you mean clove?); choose from clove, random"),
        ({"inits": {"a": {}}}, "method is missing"),
        ({"inits": {"a": {"method": "clove"}}}, "checkpoint is missing"),
        ({"inits": {"a": RANDOM | {"checkpoint": "x.pth"}}}, "random weights have no checkpoint"),
        ({"inits": {"a": {"method": "clove", "checkpoint": "no/x"}}}, "no/x does not exist"),
        ({"inits": {"a": {"method": "clove", "checkpoint": "."}}}, "without checkpoints/step_*"),
        ({"inits": {"a": RANDOM | {"epochs": -1}}}, "epochs is -1"),
        ({"tasks": ["coco_fnp"]}, "did you mean coco_fpn?); choose from coco_c4, "),
        ({"tasks": ["coco_c4", "coco_c4"]}, "coco_c4 is listed twice"),
        ({"tasks": []}, "expected a list of at least one"),
        ({"tasks": ["x/coco_c4.yaml"]}, "another task is called coco_c4; rename the file"),
        ({"tasks": ["x/cells.yaml"]}, "x/cells.yaml: no such config file"),
        ({"tasks": [TASK_YAML]}, "mask_rcnn_R_50_C4_1x.yaml is one of ours; give the task's name"),
        ({"seeds": [0, "1"]}, "'1' is not a whole number"),
        ({"task_overrides": {"coco_c": {}}}, "unknown key coco_c (did you mean coco_c4?)"),
        ({"overrides": ["A", 1]}, "expected a mapping KEY: VALUE"),
        ({"overlay": "configs/nowhere.yaml"}, "configs/nowhere.yaml: no such config file"),
        ({"datasets": "no/data"}, "python -m benchmarks.scenes writes"),
    ],
)
def test_a_bad_config_is_an_error_before_anything_runs(bench, capsys, change, message):
    bench.write(**{"inits": {"random": RANDOM}} | change)
    assert bench.run() == 2
    assert message in capsys.readouterr().err
    assert not bench.output.exists()


@pytest.mark.parametrize("name", ["demo", "demo-all", "smoke"])
def test_shipped_configs_are_valid_once_their_inputs_exist(name, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.matrix._data_root", lambda path, where: Path(path))
    monkeypatch.setattr("benchmarks.matrix.find_checkpoint", lambda path, where: Path(path))
    matrix = load_matrix(f"configs/benchmarks/{name}.yaml")
    assert matrix.overlay == REPOSITORY / "configs" / "transfer" / "Base-scenes.yaml"
    assert "random" in [init.name for init in matrix.inits]


def test_the_long_demo_leaves_out_only_a_task_that_is_another_one_on_scenes():
    from transfer.config import differences, resolve
    from transfer.tasks import TASKS

    tasks = load_yaml("configs/benchmarks/demo-all.yaml")["tasks"]
    assert tasks == [name for name in TASKS if name != "coco_c4_2x"]
    overlay = "configs/transfer/Base-scenes.yaml"
    once, twice = (resolve(TASKS[name].config, overlay) for name in ("coco_c4", "coco_c4_2x"))
    assert differences(once, twice) == {}


def test_what_the_demo_lacks_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.matrix.REPOSITORY", tmp_path)
    with pytest.raises(ConfigError, match=r"checkpoint runs/demo/pretrain does not exist"):
        load_matrix("configs/benchmarks/demo.yaml")


def test_run_imports_no_torch(bench):
    code = (
        "import sys; from benchmarks.__main__ import main; "
        f"code = main(['run', '--config-file', {str(bench.config)!r}, "
        f"'--output', {str(bench.output)!r}]); "
        "heavy = {'torch', 'detectron2', 'transfer'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    for task in ("coco_c4", "coco_fpn"):
        write_cell(bench.output, task=task)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
