"""The loop: resumption, accumulation, ranks, signals, and every message for bad input."""

import json
import os
import re
import signal

import pytest
import torch

from pretrain.__main__ import main
from pretrain.augment import boxes_of
from pretrain.config import get_cfg
from pretrain.data import PositionSampler, build_data
from pretrain.data.multicrop import collate
from pretrain.methods import complete
from pretrain.monitor.log import Log
from pretrain.monitor.monitor import Monitor
from pretrain.optim import LARS, lars_param_groups, warmup_cosine
from pretrain.photometry import normalize
from pretrain.run import Plan, accumulation, build_model
from pretrain.runtime import checkpoints
from pretrain.runtime.config import ConfigError, merge, plain
from pretrain.runtime.interrupt import Interrupted
from pretrain.train import train
from tests.pretrain.tiny import (
    CONFIG,
    assert_equal_states,
    config,
    finish,
    start,
    torchrun,
    words,
    write_images,
)


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def interrupt_at(monkeypatch, step: int):
    """Behave as if a signal had come during ``step``."""
    original = Log.close_step

    def close_step(self, host, *rest):
        told = original(self, host, *rest)
        if host["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return told

    monkeypatch.setattr(Log, "close_step", close_step)


def test_run_leaves_config_provenance_log_metrics_and_checkpoints(images, tmp_path):
    cfg = config(images, tmp_path / "run")
    path = train(cfg)
    run = tmp_path / "run"
    assert path == run / "checkpoints" / "step_00000006.pth"
    assert checkpoints.list_checkpoints(run) == [
        run / "checkpoints" / f"step_{step:08d}.pth" for step in (2, 4, 6)
    ]
    content = checkpoints.load(path)
    assert content["epoch"] == 3
    assert content["images_seen"] == 3 * 3 * 2
    assert content["config"]["ENCODER"]["ARCH"] == "resnet18"
    assert content["config"]["METHOD"]["NUM_SKIPPED"] == 1  # not in any file, but in effect
    assert content["export"] == "student"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    names = "loss loss_minus_margin positive_similarity negative_similarity embedding_std lr"
    names += " teacher_momentum images_per_second data_wait_share overfull_share no_positive_share"
    assert set(names.split()) <= lines[0].keys()
    assert lines[0]["loss_minus_margin"] == pytest.approx(lines[0]["loss"] - 100)
    assert {"git_commit", "hardware", "packages"} <= json.loads(
        (run / "provenance.json").read_text()
    ).keys()
    assert list(run.glob("events.out.tfevents.*"))
    assert "step 6/6" in (run / "log.txt").read_text()
    assert "ARCH: resnet18" in (run / "config.yaml").read_text()


def test_resume_at_an_epoch_boundary_equals_an_uninterrupted_run(images, tmp_path, monkeypatch):
    straight = train(config(images, tmp_path / "straight"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=2)  # all ranks agree on it in step 3, the host acts in step 4
        with pytest.raises(Interrupted):
            train(config(images, tmp_path / "resumed"))
    assert checkpoints.list_checkpoints(tmp_path / "resumed")[-1].name == "step_00000004.pth"
    resumed = train(config(images, tmp_path / "resumed", DATA__NUM_WORKERS=2), resume=True)
    assert_equal_states(straight, resumed)


def test_resume_mid_epoch_equals_an_uninterrupted_run(images, tmp_path, monkeypatch):
    changes = {"SOLVER__TOTAL_BATCH_SIZE": 2}
    straight = train(config(images, tmp_path / "straight", **changes))
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=3)
        with pytest.raises(Interrupted):
            train(config(images, tmp_path / "resumed", **changes))
    latest = checkpoints.load(checkpoints.list_checkpoints(tmp_path / "resumed")[-1])
    assert latest["epoch"] == pytest.approx(5 / 3)
    assert_equal_states(
        straight, train(config(images, tmp_path / "resumed", **changes), resume=True)
    )
    lines = (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 10))


def test_plan_closes_groups_at_the_epochs_end(images, tmp_path):
    cfg = config(images, tmp_path, SOLVER__TOTAL_BATCH_SIZE=2, SOLVER__BATCH_SIZE_PER_GPU=1)
    plan = Plan(cfg, num_images=5, world_size=1)
    ends = [t for t in range(plan.total) if plan.ends_group(t)]
    assert ends == [1, 3, 4, 6, 8, 9, 11, 13, 14]
    assert plan.total_steps == len(ends)
    assert plan.lr.max() == pytest.approx(20.0 * 2 / 256)


def test_accumulation_keeps_the_total_batch_or_names_the_batches_that_do():
    assert accumulation(2048, 128, 4) == 4
    with pytest.raises(ConfigError, match=r"200 images on 8 .*PER_GPU of 1, 2, 4, .* 128, 256, an"):
        accumulation(2048, 200, 8)


# Epochs, smallest share of a global crop, weight decay, as the released scripts have them
RECIPES = {50: (0.24, 1e-5), 100: (0.24, 1e-5), 200: (0.2, 2e-5), 400: (0.2, 2e-5)}


@pytest.mark.parametrize("epochs", RECIPES)
def test_recipes_have_the_released_values_and_differ_in_nothing_else(epochs):
    cfg, expected = get_cfg(), get_cfg()
    merge(cfg, f"configs/pretrain/clove_R_50_in1k_{epochs}ep.yaml", [])
    area, decay = RECIPES[epochs]
    expected.CROPS.GLOBAL_AREA = (area, 1.0)
    expected.SOLVER.EPOCHS, expected.SOLVER.WEIGHT_DECAY = epochs, decay
    expected.SOLVER.PRECISION = "bf16"
    expected.OUTPUT_DIR = f"runs/clove_R_50_in1k_{epochs}ep"
    assert plain(cfg) == plain(expected)
    plan = Plan(cfg, num_images=1_281_167, world_size=4)
    assert (plan.accumulation, plan.lr.max(), plan.length) == (2, 8.0, 1251)
    assert plan.total_steps == 626 * epochs
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.WARMUP_EPOCHS, solver.TEACHER_MOMENTUM) == (1.0, 5, 0.99)
    method = complete(cfg).METHOD
    assert (method.HIDDEN, method.DIM, method.HEADS) == (4096, 256, 8)
    assert (method.POSITIVE_RADIUS, method.GAMMA, method.MARGIN) == (0.7, 2.0, 100.0)
    assert (method.NUM_NEGATIVES, method.NUM_SKIPPED) == (9, 1)


def test_finished_run_is_left_alone(images, tmp_path, capfd):
    path = train(config(images, tmp_path / "run", SOLVER__EPOCHS=1))
    before = path.stat().st_mtime_ns
    assert train(config(images, tmp_path / "run", SOLVER__EPOCHS=1), resume=True) == path
    assert path.stat().st_mtime_ns == before
    assert "nothing to do" in capfd.readouterr().err


def run_main(arguments, capfd):
    code = main(["--config-file", CONFIG, *arguments])
    return code, capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"DATA__ROOT": "no/such/folder"},
            r"no/such/folder: no such folder; name .*DATA\.ROOT",
        ),
        ({"SOLVER__BASE_RL": 1}, r"unknown key SOLVER\.BASE_RL \(did you mean SOLVER\.BASE_LR\?\)"),
        ({"METHOD__DIM": 9}, r"METHOD clove: DIM 9 is not a multiple of HEADS 2"),
        ({"METHOD__NAME": "simclr"}, r"METHOD\.NAME 'simclr' is not one of clove"),
        ({"METHOD__HIDEN": 8}, r"METHOD\.HIDEN: clove has no such key \(did you mean HIDDEN\?\)"),
        ({"METHOD__HIDDEN": "wide"}, r"METHOD\.HIDDEN 'wide' is not of type int"),
        (
            {"SOLVER__BATCH_SIZE_PER_GPU": 50, "SOLVER__TOTAL_BATCH_SIZE": 50},
            r"7 images do not fill one micro-batch of 50",
        ),
        (
            {"CROPS__GLOBAL_SIZE": 96, "METHOD__NUM_NEGATIVES": 9},
            r"GLOBAL_SIZE 96 gives 9 cells, fewer than the 10 .*use larger crops",
        ),
        (
            {"SOLVER__TOTAL_BATCH_SIZE": 9},
            r"TOTAL_BATCH_SIZE 9 is no multiple of 2 images .*PER_GPU of 1, 3, 9, another",
        ),
        ({"DEVICE": "gpu"}, r"DEVICE 'gpu' is not auto, cpu or cuda"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_config_is_one_line_that_names_the_way_out(images, tmp_path, capfd, changes, message):
    code, error = run_main(words(images, tmp_path / "run", **changes), capfd)
    assert code == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", error)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_run_without_resume_does_not_overwrite(images, tmp_path, capfd):
    arguments = words(images, tmp_path / "run", SOLVER__EPOCHS=1)
    assert run_main(arguments, capfd)[0] == 0
    code, error = run_main(arguments, capfd)
    assert code == 2
    assert "holds a run; add --resume" in error


def test_a_key_that_may_change_does_and_no_other(images, tmp_path, capfd):
    run_main(words(images, tmp_path / "run", SOLVER__EPOCHS=1), capfd)
    longer = words(images, tmp_path / "run", SOLVER__EPOCHS=2, SOLVER__WEIGHT_DECAY=0.5)
    allow = ["--resume", "--allow-changed", "SOLVER.EPOCHS"]
    code, error = run_main([*allow, *longer], capfd)
    assert code == 2
    assert "(SOLVER.WEIGHT_DECAY was 2e-05, is 0.5)" in error
    code, error = run_main([*allow, "--allow-changed", "SOLVER.WEIGHT_DECAY", *longer], capfd)
    assert code == 0, error
    last = checkpoints.load(checkpoints.list_checkpoints(tmp_path / "run")[-1])
    assert (last["epoch"], last["config"]["SOLVER"]["WEIGHT_DECAY"]) == (2, 0.5)
    wider = words(images, tmp_path / "run", SOLVER__EPOCHS=3, METHOD__HIDDEN=32)
    code, error = run_main([*allow, "--allow-changed", "METHOD", *wider], capfd)
    assert code == 2
    assert re.search(
        r"METHOD\.HIDDEN was 16, is 32.*METHOD, ENCODER, .*PER_GPU may never change", error
    )
    code, error = run_main(["--resume", "--allow-changed", "SOLVER.EPOCH", *longer], capfd)
    assert code == 2
    assert "--allow-changed: unknown key SOLVER.EPOCH (did you mean SOLVER.EPOCHS?)" in error


def test_changed_images_are_refused_on_resume(images, tmp_path, capfd):
    run_main(words(images, tmp_path / "run", SOLVER__EPOCHS=1), capfd)
    (images / "0.png").rename(images / "renamed.png")
    code, error = run_main(["--resume", *words(images, tmp_path / "run", SOLVER__EPOCHS=1)], capfd)
    assert code == 2
    assert "the list of images below DATA.ROOT has changed" in error


def test_two_gloo_processes_share_the_images_and_rank_0_writes(images, tmp_path):
    changes = {"SOLVER__EPOCHS": 1, "MONITOR__PERIOD": 1, "MONITOR__IMAGES": 3}
    process = start(words(images, tmp_path / "run", **changes), torchrun(2))
    error = finish(process)
    assert error.count("monitor at step") == 3
    content = checkpoints.load(checkpoints.list_checkpoints(tmp_path / "run")[-1])
    assert content["world_size"] == 2
    assert content["images_seen"] == 2 * 2 * 2
    assert (tmp_path / "run" / "log.txt").read_text().count("images below") == 1


def test_loop_equals_the_steps_of_the_method_written_out(images, tmp_path):
    cfg = complete(config(images, tmp_path / "run"))
    trained = checkpoints.load(train(cfg))["model"]

    torch.manual_seed(cfg.SEED)
    model = build_model(cfg).train()
    data = build_data(cfg, torch.device("cpu"))
    optimizer = LARS(lars_param_groups(model, cfg.SOLVER.WEIGHT_DECAY), lr=0.0)
    peak, length = cfg.SOLVER.BASE_LR * 2 * 2 / 256, len(data) // 2
    lrs = warmup_cosine(peak, 0.01 * peak, 3 * length, length, peak / 100)
    momenta = warmup_cosine(0.99, 1.0, 3 * length)
    batches = PositionSampler(len(data), 2, epochs=3, seed=cfg.SEED)
    for t, keys in enumerate(batches):
        batch = collate([data[key] for key in keys])
        last = t % length == length - 1
        steps = t % length % 2 == 1 or last
        crops = [normalize(each / 255) for each in (batch.global_crops, batch.local_crops)]
        boxes = boxes_of(batch.crops, "centers")
        loss = model(*crops, boxes, float(momenta[t]) if steps else None)["loss"]
        (loss / 2).backward()
        if steps:
            for group in optimizer.param_groups:
                group["lr"] = float(lrs[t])
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(trained[name], value) for name, value in model.state_dict().items())


def test_monitors_are_measured_at_the_start_in_between_and_at_the_end(
    images, tmp_path, monkeypatch
):
    monkeypatch.setattr(Monitor, "show", lambda *_: None)  # no pictures: faster
    settings = {"MONITOR__PERIOD": 4, "MONITOR__IMAGES": 5}
    plain = train(config(images, tmp_path / "plain"))
    watched = train(config(images, tmp_path / "watched", **settings))
    assert_equal_states(plain, watched)  # measuring changes nothing
    lines = [
        json.loads(x) for x in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()
    ]
    found = {x["step"]: x for x in lines if "monitor/match_rate" in x}
    assert list(found) == [0, 4, 6]
    assert all(0 <= x["monitor/match_rate"] <= 1 for x in found.values())
    said = (tmp_path / "watched" / "log.txt").read_text()
    assert said.count("monitor at step") == 3
