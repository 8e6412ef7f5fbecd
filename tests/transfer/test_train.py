import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.engine import SimpleTrainer

from benchmarks.scenes.generate import Request, generate
from pretrain.runtime import distributed
from pretrain.runtime.config import REPOSITORY
from pretrain.runtime.interrupt import EXIT_CODE, InterruptFlag
from tests.transfer.tiny import FAST, SCENES, converted, data_sets_at, trunk_overrides, write_coco
from transfer import train
from transfer.__main__ import main
from transfer.config import images_per_bn_batch, resolve
from transfer.evaluation.coco import FastCOCOEvaluator
from transfer.tasks import TASKS
from transfer.train import Run

pytestmark = pytest.mark.usefixtures("one_thread", "own_log_handlers")
# 6 images in 2 shapes, so that groups are half-filled when a run is left
LONGER = ["SOLVER.MAX_ITER", "5", "DATALOADER.NUM_WORKERS", "1", *trunk_overrides(18)]
FIELDS = {  # value or type
    "format": 1,
    "task": str,
    "init": "clove_400ep",
    "method": "clove",
    "pretrain_epochs": 400.0,
    "depth": 50,
    "seed": 3,
    "data": dict,
    "weights_sha256": str,
    "config_sha256": str,
    "iterations": 2,
    "images_per_batch": 2,
    "images_per_bn_batch": 2,
    "main_metric": str,
    "metrics": dict,
    "seconds": float,
    "hardware": str,
    "git_commit": str,
    "packages": dict,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = write_coco(tmp_path_factory.mktemp("data"))
    with data_sets_at(path):
        yield path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    generate(folder, Request(unlabelled=0, train=24, val=10, longest_side=96))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(converted(), path)
    return path


def run(output, *flags, task="coco_fpn", weights="random", overrides=()):
    """``python -m transfer`` in this process; returns its exit status."""
    words = ["--task", task, "--weights", str(weights), "--output", str(output)]
    return main([*words, "--overlay", SCENES, *flags, *FAST, *overrides])


def read(output, name="metrics.json"):
    return json.loads((output / name).read_text())


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_cpu_without_bf16_computes_in_fp32_and_says_so(has_bf16, monkeypatch, caplog):
    seen = []
    monkeypatch.setattr(distributed, "cpu_has_bf16", lambda: has_bf16)
    cfg = resolve(TASKS["coco_fpn"].config, SCENES, [*FAST, "MODEL.DEVICE", "cpu"])
    run = Run(cfg, InterruptFlag())
    run.model.backbone.register_forward_hook(lambda _, __, maps: seen.append(maps["p2"].dtype))
    with torch.no_grad():
        run.steady.eval()([{"image": torch.zeros(3, 64, 64), "height": 64, "width": 64}])
    assert seen == [torch.bfloat16 if has_bf16 else torch.float32]
    assert ("this processor has none" in caplog.text) is not has_bf16


@pytest.mark.parametrize("task", TASKS)
def test_a_run_ends_with_a_complete_metrics_file(task, scenes, weights, tmp_path):
    with data_sets_at(scenes):
        flags = ("--seed", "3", "--init", "clove_400ep")
        assert run(tmp_path, *flags, task=task, weights=weights) == 0

    metrics = read(tmp_path)
    assert metrics.keys() == FIELDS.keys()
    assert [metrics["task"], metrics["main_metric"]] == [task, TASKS[task].main_metric]
    for key, expected in FIELDS.items():
        value = metrics[key]
        assert type(value) is expected if isinstance(expected, type) else value == expected, key
    assert set(metrics["data"]) == {"name", "train_images", "test_images", "sha256"}
    # Nobody in these small images is 32 px by 32 px large.
    assert set(TASKS[task].metrics) - set(metrics["metrics"]) <= {"keypoints/APm", "keypoints/APl"}
    assert all(0 <= value <= 100 for value in metrics["metrics"].values())
    assert not any("AP-" in name for name in metrics["metrics"])  # none per category

    frozen = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (frozen["SOLVER"]["MAX_ITER"], frozen["SEED"]) == (2, 3)
    assert read(tmp_path, "provenance.json")["run"]["config_sha256"] == metrics["config_sha256"]
    log = (tmp_path / "log.txt").read_text()
    assert f"{weights}: 318 entries loaded" in log


@pytest.fixture(scope="module")
def straight(root, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(folder, overrides=LONGER) == 0
    return folder


def test_a_finished_run_is_left_alone_and_its_folder_is_no_other_runs(straight, capsys):
    before = (straight / "metrics.json").stat().st_mtime_ns
    assert run(straight, overrides=LONGER) == 0
    assert "this run is done" in (straight / "log.txt").read_text()
    assert (straight / "metrics.json").stat().st_mtime_ns == before
    assert run(straight, "--seed", "3", overrides=[*LONGER, "SOLVER.BASE_LR", "0.5"]) == 2
    message = capsys.readouterr().err
    assert "holds another run (SOLVER.BASE_LR 0.01, now 0.5" in message
    assert "seed 0, now 3" in message


def interrupt_once(monkeypatch, owner, name, call):
    """Call number ``call`` of ``owner.name`` is met by a signal."""
    original, calls = getattr(owner, name), itertools.count()

    def interrupted(*arguments, **keywords):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, interrupted)


def test_a_run_interrupted_in_every_stage_ends_as_an_uninterrupted_one(
    straight, tmp_path, monkeypatch, capsys
):
    for owner, name, call, checkpoint in [
        (SimpleTrainer, "write_metrics", 1, "model_0000002.pth"),
        (SimpleTrainer, "write_metrics", 1, "model_0000004.pth"),
        (train, "update_bn_stats", 0, "model_0000005.pth"),
        (FastCOCOEvaluator, "process", 0, "model_final.pth"),
    ]:
        with monkeypatch.context() as patch:
            interrupt_once(patch, owner, name, call)
            assert run(tmp_path, "--resume", overrides=LONGER) == EXIT_CODE
        assert [path.name for path in tmp_path.glob("*.pth")] == [checkpoint]
        assert not (tmp_path / "metrics.json").exists()
        assert "--resume goes on" in capsys.readouterr().err
    seconds = torch.load(tmp_path / "model_final.pth")["seconds"]
    assert run(tmp_path, "--resume", overrides=LONGER) == 0
    assert read(tmp_path)["seconds"] >= round(seconds, 1)  # of all parts together

    ours, theirs = (torch.load(f / "model_final.pth")["model"] for f in (straight, tmp_path))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert read(straight)["metrics"] == read(tmp_path)["metrics"]


def test_evaluating_a_checkpoint_again_gives_the_same_numbers(straight, tmp_path):
    assert run(straight, "--eval-only", overrides=LONGER) == 0
    assert read(straight, "evaluation.json")["metrics"] == read(straight)["metrics"]
    model = straight / "model_final.pth"  # a whole model, from wherever it is
    assert run(tmp_path, "--eval-only", weights=model, overrides=LONGER) == 0
    evaluation = read(tmp_path, "evaluation.json")
    assert evaluation["metrics"] == read(straight)["metrics"]
    assert (evaluation["method"], evaluation["iterations"]) == ("model", 0)


def test_a_loss_that_is_not_finite_ends_the_run_and_nothing_is_saved_after_it(
    root, tmp_path, capsys
):
    assert run(tmp_path, overrides=["SOLVER.BASE_LR", "1e30", "SOLVER.CHECKPOINT_PERIOD", "1"]) == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line == "error: Predicted boxes or scores contain Inf/NaN. Training has diverged."
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000001.pth"]


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (["--task", "coco_c5"], [], "unknown task coco_c5 (did you mean coco_c4?)"),
        (["--init", "CLoVE 400"], [], "--init CLoVE 400: only lower-case letters"),
        ([], ["SOLVER.MAX_ITERR", "1"], "unknown key SOLVER.MAX_ITERR (did you mean"),
        ([], ["TRANSFER.AMP_DTYPE", "fp16"], "Add: TRANSFER.AMP_DTYPE bf16"),
        (["--weights", "nowhere.pth"], [], "nowhere.pth: cannot be read (No such file"),
        (["--eval-only"], [], "no checkpoint in"),
        (["--visualize", "new", "3"], [], "--visualize new: the number of images"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, overrides, message, root, tmp_path, capsys):
    assert run(tmp_path, *flags, overrides=["MODEL.DEVICE", "cpu", *overrides]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("error: ")
    assert message in printed


def test_two_processes_train_and_evaluate_and_one_evaluates_alike(root, tmp_path):
    norms = ["MODEL.RESNETS.NORM", "FrozenBN"]
    for head in ("FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        norms += [f"MODEL.{head}.NORM", "BN"]
    words = ["--task", "coco_fpn", "--weights", "random", "--output", str(tmp_path)]
    words += ["--overlay", SCENES]
    command = [sys.executable, "-m", "transfer", "--num-gpus", "2", *words, *FAST, *norms]
    environment = os.environ | {"DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # In this process alone
    assert main([*words, "--eval-only", *FAST, *norms]) == 0
    assert read(tmp_path, "evaluation.json")["metrics"] == read(tmp_path)["metrics"]


@pytest.mark.parametrize(
    ("flags", "started", "message"),
    [
        (["--num-gpus", "8", "--num-machines", "2"], None, "meet at machine 0's tcp://HOST:PORT"),
        (["--num-gpus", "4"], "2", "torchrun started 2 processes"),
    ],
)
def test_processes_that_cannot_meet_stop(flags, started, message, monkeypatch, capsys):
    if started:
        monkeypatch.setenv("WORLD_SIZE", started)
    assert main(["--task", "coco_c4", *flags]) == 2
    assert message in capsys.readouterr().err


def test_flags_of_several_machines_become_torchruns(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    words = ["--task", "coco_c4", "--num-gpus", "8", "--num-machines", "2", "--machine-rank", "1"]
    words += ["--dist-url", "tcp://node0:29500"]
    assert main(words) == 2  # as nothing took this process's place: --output is missing
    assert started[0][1:] == [
        *("-m", "torch.distributed.run", "--nnodes=2", "--node-rank=1"),
        *("--master-addr=node0", "--master-port=29500", "--nproc-per-node=8"),
        *("-m", "transfer", *words),
    ]


def test_weights_that_are_not_a_converted_file_stop_with_the_command(root, tmp_path, capsys):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert run(tmp_path / "run", weights=tmp_path / "other.pth") == 2
    command = f"Run: python -m transfer.convert {tmp_path / 'other.pth'} backbone.pth"
    assert command in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_missing_data_stop_before_anything_is_built(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "Run", None)
    with data_sets_at(tmp_path / "nothing"):
        assert run(tmp_path / "run") == 2
        assert main(["--check-data"]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path}/nothing/coco/annotations/instances_train2017.json" in message
    assert "DETECTRON2_DATASETS" in message


@pytest.mark.parametrize("missing", ["--task", "--output", "--weights"])
def test_a_missing_flag_is_named(missing, capsys):
    words = {"--task": "coco_c4", "--output": "x", "--weights": "random"}
    words.pop(missing)
    assert main([word for pair in words.items() for word in pair]) == 2
    assert f"error: {missing} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("norm", "processes", "expected"),
    [("SyncBN", 1, 16), ("BN", 1, 16), ("BN", 4, 4), ("FrozenBN", 4, 0), ("naiveSyncBN", 2, 16)],
)
def test_images_that_share_bn_statistics(norm, processes, expected):
    overrides = ["MODEL.RESNETS.NORM", norm, "MODEL.DEVICE", "cpu"]
    cfg = resolve(TASKS["coco_c4"].config, overrides=overrides)
    assert images_per_bn_batch(cfg, processes) == expected


def test_batches_without_an_object_train_and_are_none_of_precise_bns(tmp_path):
    root = write_coco(tmp_path / "data")
    path = root / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] == 1]
    path.write_text(json.dumps(content))
    overrides = "DATALOADER.FILTER_EMPTY_ANNOTATIONS False TEST.PRECISE_BN.NUM_ITER 3"
    overrides = [*overrides.split(), *trunk_overrides(18)]
    with data_sets_at(root):
        assert run(tmp_path / "run", overrides=overrides) == 0
