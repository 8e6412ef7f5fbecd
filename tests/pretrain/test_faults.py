"""What a cluster does to a run, and that nothing is lost by it (benchmarks/FAULTS.md)."""

import re
import shutil
import signal

import pytest

from pretrain.__main__ import main
from pretrain.runtime import checkpoints
from pretrain.train import train
from tests.pretrain.tiny import (
    CONFIG,
    SAME,
    assert_equal_states,
    config,
    interrupt,
    last_checkpoint,
    poison,
    start,
    wait_until,
    words,
    write_images,
)

LAST = "nothing before the last checkpoint, which stays"


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def straight(images, tmp_path):
    """The last checkpoint of an undisturbed run in this process."""
    return train(config(images, tmp_path / "straight"))


def run_main(arguments, capfd):
    code = main(["--config-file", CONFIG, *arguments])
    return code, capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])  # SIGUSR2: test_killed.py
def test_signal_to_the_process_group_saves_and_exits_with_the_documented_code(
    images, tmp_path, number
):
    run = tmp_path / "run"
    process = start(words(images, run, SOLVER__EPOCHS=5000, DATA__NUM_WORKERS=2))
    wait_until(lambda: checkpoints.list_checkpoints(run), process)
    error = interrupt(process, number)
    assert "Traceback" not in error
    assert checkpoints.load(last_checkpoint(run))["step"] > 2


@pytest.mark.fault(
    "The newest checkpoint is truncated",
    cause="cut after 1000 bytes",
    lost=f"{SAME}; it goes on from the checkpoint before, with a warning",
)
def test_broken_newest_checkpoint_is_passed_over_with_a_warning(images, tmp_path, straight, capfd):
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "straight", run)
    newest = last_checkpoint(run)
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = train(config(images, run), resume=True)
    error = capfd.readouterr().err
    assert "step_00000006.pth: not a complete" in error
    assert "resuming at step 4" in error
    assert_equal_states(straight, resumed)


@pytest.mark.fault(
    "Images that cannot be read",
    cause="a file that is no image among them",
    lost="the image, in whose place comes another, the same in every run; it is counted and listed",
)
def test_unreadable_image_is_replaced_counted_and_listed(images, tmp_path, capfd):
    (images / "broken.jpg").write_bytes(b"not an image")
    changes = {"DATA__MAX_BAD_SHARE": 0.2, "SOLVER__EPOCHS": 1}
    first = train(config(images, tmp_path / "a", **changes))
    second = train(config(images, tmp_path / "b", **changes, DATA__NUM_WORKERS=1))
    assert (tmp_path / "a" / "bad_images.txt").read_text() == "broken.jpg\n"
    error = capfd.readouterr().err
    assert "broken.jpg: cannot be read, replaced" in error
    assert "1 images so far could not be read: " in error
    assert_equal_states(first, second)


@pytest.mark.fault(
    "More images that cannot be read than DATA.MAX_BAD_SHARE allows",
    cause="one of 8, where none is allowed",
    lost=LAST,
)
def test_too_many_unreadable_images_stop_the_run(images, tmp_path, capfd):
    (images / "broken.jpg").write_bytes(b"not an image")
    code, error = run_main(words(images, tmp_path / "run"), capfd)
    assert code == 2
    assert re.search(r"error: .*1 images cannot be read.*MAX_BAD_SHARE.*bad_images\.txt", error)


@pytest.mark.fault(
    "NaN or infinity in a loss or gradient",
    cause="the crops of a micro-batch set to NaN; a learning rate of 1e38",
    lost="nothing before the last checkpoint of finite weights, which stays even as the only one; "
    "the images of the step are listed",
)
@pytest.mark.parametrize("micro_step", [4, 8])  # of step 3; of step 6, the last
def test_nan_stops_the_run_and_names_its_images(images, tmp_path, capfd, monkeypatch, micro_step):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, micro_step)
        code, error = run_main(words(images, run), capfd)
    step = {4: 3, 8: 6}[micro_step]
    assert code == 2
    assert re.search(rf"error: step {step}: .* NaN .*loss nan.*not_finite\.txt.*BASE_LR", error)
    listed = (run / "not_finite.txt").read_text().splitlines()
    assert len(listed) == 2
    assert all((images / name).exists() and name in error for name in listed)
    assert checkpoints.load(last_checkpoint(run))["step"] == {4: 2, 8: 4}[micro_step]
    assert run_main(["--resume", *words(images, run)], capfd)[0] == 0


def test_weights_that_run_away_reach_no_checkpoint(images, tmp_path, capfd):
    run = tmp_path / "run"
    changes = {"SOLVER__WARMUP_EPOCHS": 0, "CHECKPOINT__KEEP": 1}
    assert run_main(words(images, run, **changes, SOLVER__EPOCHS=1), capfd)[0] == 0
    before = last_checkpoint(run).read_bytes()
    allow = [f"--allow-changed=SOLVER.{key}" for key in ("EPOCHS", "BASE_LR")]
    changes |= {"SOLVER__EPOCHS": 20, "SOLVER__BASE_LR": 1e38}
    code, error = run_main(["--resume", *allow, *words(images, run, **changes)], capfd)
    assert code == 2
    assert re.search(r"error: step \d+: .*NaN.*BASE_LR", error)
    assert last_checkpoint(run).read_bytes() == before


@pytest.mark.fault(
    "A log folder that cannot be written",
    cause="OUTPUT_DIR below a file",
    lost="nothing: nothing was trained yet",
)
def test_a_folder_that_cannot_be_made_is_a_clear_end(images, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    code, error = run_main(words(images, tmp_path / "file" / "run"), capfd)
    assert code == 1
    assert re.fullmatch(r"error: .*Not a directory: '.*/file/run'\n", error)
