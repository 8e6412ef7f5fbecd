"""Two processes do what one does."""

import os
import re
import subprocess
import sys

import pytest
import torch

from pretrain.runtime import checkpoints
from tests.pretrain.tiny import last_checkpoint, torchrun, write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images", count=8)


def on_ranks(processes, *words):
    launcher = torchrun(processes) if processes > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, "-m", "tests.pretrain.on_ranks", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_have_the_gradients_and_parameters_of_one(images, tmp_path):
    for processes in (1, 2):
        done = on_ranks(processes, images, tmp_path / str(processes))
        assert done.returncode == 0, done.stderr
    close = {"rtol": 1e-9, "atol": 1e-12}
    one, two = (torch.load(tmp_path / n / "gradients.pth") for n in "12")
    # The last gamma of every block starts at 0, and nothing within the block learns yet
    assert sum(bool(gradient.any()) for gradient in one) > len(one) / 2
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **close)
    one, two = (checkpoints.load(last_checkpoint(tmp_path / n)) for n in "12")
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert one["images_seen"] == two["images_seen"] == 24
    assert two["micro_step"] == 2 * two["step"]
    assert (tmp_path / "2" / "reductions").read_text() == two["step"] * "x"
    for name, value in one["model"].items():
        torch.testing.assert_close(value, two["model"][name], **close, msg=name)
    momenta = [content["optimizer"]["state"] for content in (one, two)]
    for n, state in momenta[0].items():
        torch.testing.assert_close(
            state["momentum_buffer"], momenta[1][n]["momentum_buffer"], **close
        )


@pytest.mark.fault(
    "Parameters of the ranks drift apart",
    cause="1e-6 added to one weight on rank 1 of 2",
    lost="nothing before the last checkpoint, which stays: all ranks end before the next save",
)
def test_ranks_that_drift_apart_save_nothing(images, tmp_path):
    done = on_ranks(2, images, tmp_path, "drift")
    assert done.returncode == 1, done.stderr  # torchrun's
    assert re.search(
        r"error: .* at step 1 the parameters on ranks 1 are not those of rank 0; nothing was saved",
        done.stderr,
    ), done.stderr
    assert not checkpoints.list_checkpoints(tmp_path)
