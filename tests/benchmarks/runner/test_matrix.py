"""A benchmark's YAML: what is checked before anything runs, and the commands that come of it."""

import pytest
import yaml

from benchmarks.runner.matrix import load_matrix
from pretrain.runtime.config import REPOSITORY, load_yaml
from tests.benchmarks.runner.bench import RANDOM, with_checkpoint


def test_commands_carry_what_the_yaml_says(bench, monkeypatch):
    monkeypatch.undo()
    with_checkpoint(bench)
    tree = yaml.safe_load(bench.config.read_text())
    tree["inits"]["clove"]["overrides"] = {"INPUT.FORMAT": "BGR", "SOLVER.BASE_LR": 0.5}
    tree["overlay"] = "configs/transfer/Base-scenes.yaml"
    overrides = {"SOLVER": {"MAX_ITER": 3, "STEPS": "(2,)"}}
    task_overrides = {"coco_fpn": {"SOLVER.BASE_LR": 0.1, "SOLVER.MAX_ITER": 4}}
    bench.write(**tree, seeds=[7], overrides=overrides, task_overrides=task_overrides)
    stages = bench.stages()
    cell = stages["clove/coco_fpn/seed7"]
    weights = str(bench.output / "clove" / "backbone.pth")
    assert " ".join(cell.command[1:]) == (
        f"-m transfer --task coco_fpn --weights {weights} --output {cell.folder} --seed 7 "
        f"--init clove --overlay {REPOSITORY / 'configs/transfer/Base-scenes.yaml'} --resume "
        f"--visualize 2 {cell.folder / 'pictures'} "
        "SOLVER.MAX_ITER 4 SOLVER.STEPS (2,) SOLVER.BASE_LR 0.5 INPUT.FORMAT BGR"
    )
    random = stages["random/coco_c4/seed7"].command
    assert random[random.index("--weights") + 1] == "random"
    assert stages["clove/convert"].command[1:] == [
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
    command = " ".join(bench.stages()["random/cells/seed0"].command)
    assert f"-m transfer --config-file {own} --weights" in command
    assert command.endswith(" SOLVER.MAX_ITER 3")
    assert load_matrix(bench.config).summary()["tasks"] == ["coco_c4", "cells"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [0]}, "unknown key seed (did you mean seeds?)"),
        ({"inits": {"a": RANDOM | {"epoch": 3}}}, "unknown key epoch (did you mean epochs?)"),
        ({"inits": {"A-b": RANDOM}}, "'A-b' is not a name of lower-case letters"),
        ({"inits": {"a": {"method": "colve"}}}, "unknown method colve (did you mean clove?)"),
        ({"inits": {"a": {"method": "clove"}}}, "every other method one of the two"),
        ({"inits": {"a": RANDOM | {"checkpoint": "x.pth"}}}, "random has neither"),
        (
            {"inits": {"a": {"method": "clove", "checkpoint": "."}}},
            "no folder with checkpoints/step_*",
        ),
        ({"inits": {"a": RANDOM | {"epochs": -1}}}, "epochs is -1"),
        ({"tasks": ["coco_fnp"]}, "did you mean coco_fpn?); choose from coco_c4, "),
        ({"tasks": ["coco_c4", "coco_c4"]}, "coco_c4 is listed twice"),
        ({"tasks": ["x/coco_c4.yaml"]}, "the name coco_c4 is taken; rename the file"),
        ({"seeds": [0, "1"]}, "'1' is not a whole number"),
        ({"overrides": ["A", 1]}, "expected a mapping KEY: VALUE"),
        ({"overlay": "configs/nowhere.yaml"}, "configs/nowhere.yaml: no such config file"),
        ({"task_seeds": {"coco_fpn": [1, 1]}}, "seeds of coco_fpn: 1 is listed twice"),
        ({"retries": -1}, "retries: -1 is not a whole number"),
        ({"slurm": {"coco": {}}}, "slurm: unknown key coco (did you mean coco_c4?)"),
        ({"slurm": {"all": {"gpu": 1}}}, "unknown key gpu (did you mean gpus?)"),
        (
            {
                "inits": {
                    "a": {"method": "moco", "pretrain": {"config": "configs/pretrain/demo.yaml"}}
                }
            },
            "method moco, but configs/pretrain/demo.yaml trains clove",
        ),
        ({"inits": {"a": {"method": "clove", "pretrain": {}}}}, "config is missing"),
    ],
)
def test_a_bad_config_is_an_error_before_anything_runs(bench, capsys, change, message):
    bench.write(**{"inits": {"random": RANDOM}} | change)
    assert bench.run() == 2
    assert message in capsys.readouterr().err
    assert not bench.output.exists()


@pytest.mark.parametrize("name", ["demo", "demo-all", "smoke"])
def test_shipped_configs_are_valid(name):
    matrix = load_matrix(f"configs/benchmarks/{name}.yaml")
    assert matrix.overlay == REPOSITORY / "configs" / "transfer" / "Base-scenes.yaml"
    assert "random" in [init.name for init in matrix.inits]


def test_the_long_demo_leaves_out_only_the_legacy_and_what_is_another_task_on_scenes():
    from transfer.config import differences, resolve
    from transfer.tasks import TASKS

    tasks = load_yaml("configs/benchmarks/demo-all.yaml")["tasks"]
    assert tasks == [n for n in TASKS if n not in ("coco_c4_2x", "densepose_fpn_legacy")]
    overlay = "configs/transfer/Base-scenes.yaml"
    once, twice = (resolve(TASKS[name].config, overlay) for name in ("coco_c4", "coco_c4_2x"))
    assert differences(once, twice) == {}


def test_the_paper_is_whole():
    matrix = load_matrix("configs/benchmarks/paper.yaml")
    assert list(matrix.tasks) == load_yaml("configs/benchmarks/demo-all.yaml")["tasks"]
    assert {task: len(seeds) for task, seeds in matrix.seeds.items()} == {
        task: 5 if task == "voc_c4" else 3 for task in matrix.tasks
    }
    assert [init.epochs for init in matrix.inits if init.method == "clove"] == [50, 200, 400]
    assert {"random", "supervised"} < {init.method for init in matrix.inits}
    assert matrix.resources("voc_c4").gpus == 8


def test_a_name_that_is_there_twice_is_an_error_in_a_base_too(bench, capsys):
    (bench.folder / "base.yaml").write_text("inits: {a: {method: random}, a: {method: clove}}\n")
    bench.config.write_text("_BASE_: base.yaml\ntasks: [coco_c4]\n")
    assert bench.run() == 2
    assert "base.yaml: line 1: a is there twice; rename one" in capsys.readouterr().err


def test_every_missing_file_is_named_before_anything_runs(bench, capsys):
    inits = {name: {"method": "clove", "checkpoint": f"no/{name}.pth"} for name in ("a", "b")}
    bench.write(inits=inits, datasets="no/data")
    assert bench.run() == 2
    error = capsys.readouterr().err
    for name in ("a", "b"):
        assert f"inits: {name}: checkpoint no/{name}.pth is no file" in error
    assert "datasets: no/data is no folder" in error
    assert not bench.output.exists()


@pytest.mark.usefixtures("resolved")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"SOLVER.MAX_ITR": 5},
            "random/coco_c4: unknown key SOLVER.MAX_ITR (did you mean SOLVER.MAX_ITER?)",
        ),
        ({"SOLVER": {"IMS_PER_BATCH": "many"}}, "(16 vs. many) for config key: SOLVER.IMS_PER_"),
        ({"OUTPUT_DIR": "x"}, "random/coco_c4: OUTPUT_DIR is set by --output"),
    ],
)
def test_settings_that_no_cell_can_run_with_stop_before_anything_runs(
    bench, capsys, overrides, message
):
    bench.write(inits={"random": RANDOM}, overrides=overrides)
    assert bench.run() == 2
    assert message in capsys.readouterr().err
    assert not bench.output.exists()
