import json
import logging
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.engine import hooks

from benchmarks.scenes.generate import Request, generate
from pretrain.runtime import precision
from pretrain.runtime.config import REPOSITORY, ConfigError
from pretrain.runtime.interrupt import EXIT_CODE
from tests.transfer.convert import layouts, peers
from tests.transfer.tiny import FAST, SCENES, converted, data_sets_at, write_coco
from transfer.__main__ import main
from transfer.config import resolve
from transfer.evaluation.coco import FastCOCOEvaluator
from transfer.tasks import TASKS
from transfer.train import Trainer, images_per_bn_batch

pytestmark = pytest.mark.usefixtures("one_thread")
FIELDS = {
    "format": int,
    "task": str,
    "init": str,
    "method": str,
    "pretrain_epochs": float,
    "seed": int,
    "main_metric": str,
    "metrics": dict,
    "data": dict,
    "weights_sha256": str,
    "config_sha256": str,
    "iterations": int,
    "images_per_batch": int,
    "images_per_bn_batch": int,
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
def scenes_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    generate(folder, Request(unlabelled=0, train=24, val=10, longest_side=96))
    return folder


@pytest.fixture
def scenes(scenes_folder):
    with data_sets_at(scenes_folder):
        yield scenes_folder


@pytest.fixture(autouse=True)
def own_log_handlers():
    """Detectron2 keeps its handlers, and with them the captured output of an earlier test."""
    yield
    for name in ("fvcore", "detectron2", "transfer"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)


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
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    cfg = resolve(TASKS["coco_fpn"].config, SCENES, [*FAST, "MODEL.DEVICE", "cpu"])
    model = Trainer.build_model(cfg).eval()
    model.backbone.register_forward_hook(lambda _, __, maps: seen.append(maps["p2"].dtype))
    with torch.no_grad():
        model([{"image": torch.zeros(3, 64, 64), "height": 64, "width": 64}])
    assert seen == [torch.bfloat16 if has_bf16 else torch.float32]
    assert ("this processor has none" in caplog.text) is not has_bf16


@pytest.mark.parametrize("task", TASKS)
def test_a_run_ends_with_a_complete_metrics_file(task, scenes, weights, tmp_path, capsys):
    assert run(tmp_path, "--seed", "3", "--init", "clove_400ep", task=task, weights=weights) == 0

    metrics = read(tmp_path)
    assert {key: type(value) for key, value in metrics.items()} == FIELDS
    expected = {
        "format": 1,
        "task": task,
        "init": "clove_400ep",
        "method": "clove",
        "pretrain_epochs": 400.0,
        "seed": 3,
        "main_metric": TASKS[task].main_metric,
        "iterations": 2,
        "images_per_batch": 2,
        "images_per_bn_batch": 2,
    }
    assert {key: metrics[key] for key in expected} == expected
    assert set(metrics["data"]) == {"name", "train_images", "test_images", "sha256"}
    # Nobody in these small images is 32 px by 32 px large.
    assert set(TASKS[task].metrics) - set(metrics["metrics"]) <= {"keypoints/APm", "keypoints/APl"}
    assert all(0 <= value <= 100 for value in metrics["metrics"].values())
    assert not any("AP-" in name for name in metrics["metrics"])  # none per category

    frozen = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (frozen["SOLVER"]["MAX_ITER"], frozen["SEED"]) == (2, 3)
    assert read(tmp_path, "provenance.json")["run"]["config_sha256"] == metrics["config_sha256"]
    assert (tmp_path / "training.jsonl").read_text().startswith("{")
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_final.pth"]
    log = (tmp_path / "log.txt").read_text()
    assert "SyncBN sees 2 images per batch; the recipes have 16" in log
    assert f"{weights}: 318 entries loaded" in log

    # Again: says that it is done, and trains nothing.
    before = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert run(tmp_path, "--seed", "3", "--init", "clove_400ep", task=task, weights=weights) == 0
    assert "this run is done" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == before

    # With another setting: another run, not this folder's.
    assert run(tmp_path, task=task, overrides=["SOLVER.BASE_LR", "0.5"]) == 2
    message = capsys.readouterr().err
    assert "holds another run (SOLVER.BASE_LR 0.01, now 0.5" in message
    assert "seed 3, now 0" in message


def interrupt_once(monkeypatch, owner, name):
    """The first call of ``owner.name`` is met by a signal."""
    original, sent = getattr(owner, name), []

    def interrupted(*arguments, **keywords):
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, interrupted)


def test_a_run_interrupted_in_every_stage_goes_on_and_ends(root, tmp_path, monkeypatch, capsys):
    def last_checkpoint():
        names = [path.name for path in tmp_path.glob("*.pth")]
        assert names == [(tmp_path / "last_checkpoint").read_text()]
        return names[0]

    for owner, name, checkpoint in [
        (Trainer, "run_step", "model_0000001.pth"),
        (hooks.PreciseBN, "update_stats", "model_0000002.pth"),
        (FastCOCOEvaluator, "process", "model_final.pth"),
    ]:
        interrupt_once(monkeypatch, owner, name)
        assert run(tmp_path, "--resume") == EXIT_CODE
        assert last_checkpoint() == checkpoint
        assert not (tmp_path / "metrics.json").exists()
        assert "--resume goes on" in capsys.readouterr().err
    seconds = torch.load(tmp_path / "model_final.pth")["trainer"]["seconds"]
    assert run(tmp_path, "--resume") == 0
    assert read(tmp_path)["seconds"] >= round(seconds, 1)  # of all parts together

    # Evaluating the checkpoint again gives the same numbers, and leaves metrics.json alone.
    assert run(tmp_path, "--eval-only") == 0
    assert read(tmp_path, "evaluation.json")["metrics"] == read(tmp_path)["metrics"]
    model = str(tmp_path / "model_final.pth")  # a whole model, from wherever it is
    assert run(tmp_path / "elsewhere", "--eval-only", "--weights", model) == 0
    assert read(tmp_path / "elsewhere", "evaluation.json")["metrics"] == read(tmp_path)["metrics"]


def test_the_same_seed_gives_the_same_run(root, tmp_path):
    def losses(name, seed):
        overrides = ["TEST.PRECISE_BN.ENABLED", "False"]
        assert run(tmp_path / name, "--seed", str(seed), overrides=overrides) == 0
        lines = (tmp_path / name / "training.jsonl").read_text().splitlines()
        return [json.loads(line)["total_loss"] for line in lines if "total_loss" in line]

    first = losses("first", 1)
    assert losses("second", 1) == first
    assert read(tmp_path / "first")["metrics"] == read(tmp_path / "second")["metrics"]
    assert losses("third", 2) != first


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_resumed_run_ends_as_an_uninterrupted_one(workers, root, tmp_path, monkeypatch):
    # 5 iterations of 6 images in 2 shapes, so that groups are half-filled when the run is left.
    overrides = ["SOLVER.MAX_ITER", "5", "DATALOADER.NUM_WORKERS", str(workers)]
    assert run(tmp_path / "straight", overrides=overrides) == 0
    for iteration in (1, 3):
        original = Trainer.run_step

        def left(self, original=original, iteration=iteration):
            if self.iter == iteration:
                os.kill(os.getpid(), signal.SIGTERM)
            original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "run_step", left)
            assert run(tmp_path / "resumed", "--resume", overrides=overrides) == EXIT_CODE
    assert run(tmp_path / "resumed", "--resume", overrides=overrides) == 0

    straight, resumed = (
        torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("straight", "resumed")
    )
    assert straight.keys() == resumed.keys()
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
    assert read(tmp_path / "straight")["metrics"] == read(tmp_path / "resumed")["metrics"]
    assert "% of it waiting for data" in (tmp_path / "straight" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (["--task", "coco_c5"], [], "unknown task coco_c5 (did you mean coco_c4?)"),
        (["--init", "CLoVE 400"], [], "--init CLoVE 400: only lower-case letters"),
        ([], ["SOLVER.MAX_ITERR", "1"], "unknown key SOLVER.MAX_ITERR (did you mean"),
        ([], ["TRANSFER.AMP_DTYPE", "fp16"], "Add: TRANSFER.AMP_DTYPE bf16"),
        (["--weights", "nowhere.pth"], [], "nowhere.pth: cannot be read (No such"),
        (["--eval-only"], [], "holds no checkpoint"),
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
    assert torch.load(tmp_path / "model_final.pth")["trainer"]["processes"] == 2
    # In this process alone; the warning is about the order of images.
    assert main([*words, "--eval-only", *FAST, *norms]) == 0
    assert "begun on 2 processes, resumed on 1" in (tmp_path / "log.txt").read_text()
    assert read(tmp_path, "evaluation.json")["metrics"] == read(tmp_path)["metrics"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-gpus", "8", "--num-machines", "2"], "meet at machine 0's tcp://HOST:PORT"),
        (["--num-machines", "2"], "meet at machine 0's tcp://HOST:PORT"),
        (["--num-gpus", "2", "--dist-url", "auto"], "--dist-url auto"),
    ],
)
def test_machines_without_a_place_to_meet_stop(flags, message, capsys):
    assert main(["--task", "coco_c4", *flags]) == 2
    assert message in capsys.readouterr().err


def test_flags_that_contradict_torchrun_stop(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--task", "coco_c4", "--num-gpus", "4"]) == 2
    assert "torchrun started 2 processes" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("moco", "moco_v2.pth.tar"),
        ("supervised_msra", "R-50.pkl"),
        ("dino", "model_final_fpn.pth"),
        ("clove", "model_final_c4.pth"),
    ],
)
def test_weights_that_are_not_a_converted_file_stop_with_the_command(
    method, name, root, tmp_path, capsys
):
    path = peers.write(method, name, layouts.small_trunk(), tmp_path)
    assert run(tmp_path / "run", weights=path) == 2
    assert f"Run: python -m transfer.convert {path} {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("key", "needed", "pair"),
    [
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT BGR"),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], "'[103.53, 116.28, 123.675]'"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "MODEL.PIXEL_STD '[1.0, 1.0, 1.0]'"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", True, "MODEL.RESNETS.STRIDE_IN_1X1 True"),
        ("MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.DEPTH 101"),
    ],
)
def test_weights_that_need_other_settings_stop_with_the_pairs_to_add(
    key, needed, pair, root, tmp_path, capsys
):
    file = converted()
    file["meta"]["config"][key] = needed
    torch.save(file, tmp_path / "other.pth")
    assert run(tmp_path / "run", weights=tmp_path / "other.pth") == 2
    message = capsys.readouterr().err.strip()
    assert "other.pth: these clove weights need other settings" in message
    assert message.endswith(pair)


def test_missing_data_stop_before_anything_is_built(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transfer.__main__.Trainer", None)
    with data_sets_at(tmp_path / "nothing"):
        assert run(tmp_path / "run") == 2
        assert main(["--check-data"]) == 2
    message = capsys.readouterr().err
    assert (
        str(tmp_path / "nothing" / "coco" / "annotations" / "instances_train2017.json") in message
    )
    assert "DETECTRON2_DATASETS" in message


def test_a_config_file_runs_without_being_a_task(root, tmp_path):
    config = tmp_path / "boxes_only.yaml"
    base = REPOSITORY / TASKS["coco_fpn"].config
    config.write_text(f"_BASE_: {base}\nVERSION: 2\nMODEL: {{MASK_ON: False}}\n")
    words = ["--config-file", str(config), "--weights", "random", "--output", str(tmp_path / "run")]
    assert main([*words, "--overlay", SCENES, *FAST]) == 0
    metrics = read(tmp_path / "run")
    assert (metrics["task"], metrics["main_metric"]) == ("boxes_only", "bbox/AP")
    assert {name.split("/")[0] for name in metrics["metrics"]} == {"bbox"}


def test_check_data_lists_the_counts(root, capsys):
    assert main(["--check-data", "--task", "coco_c4"]) == 0
    assert (
        "coco_2017_val: 3 images (the official set has 5000), 6 objects" in capsys.readouterr().out
    )


def test_list_names_every_task(capsys):
    assert main(["--list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(TASKS)


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
    cfg = resolve(TASKS["coco_c4"].config, overrides=["MODEL.RESNETS.NORM", norm])
    cfg.MODEL.DEVICE = "cpu"
    assert images_per_bn_batch(cfg, processes) == expected


def test_synchronized_bn_on_several_cpu_processes_stops_with_the_pairs_to_add():
    cfg = resolve(TASKS["coco_fpn"].config)
    cfg.MODEL.DEVICE = "cuda"
    assert images_per_bn_batch(cfg, 8) == 16
    cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(ConfigError, match=r"MODEL.FPN.NORM BN .*MODEL.ROI_MASK_HEAD.NORM BN"):
        images_per_bn_batch(cfg, 2)
