"""However a command ends, its last line on standard error says why."""

import os

import pytest
import torch

from pretrain.runtime.command import with_exit_code
from pretrain.runtime.files import DataError

WORKERS = "loader processes: DATA.NUM_WORKERS, in fine-tuning DATALOADER.NUM_WORKERS"
OF_A_LOADER = """Caught ValueError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: no such view
"""


def last_line(main, capfd):
    assert with_exit_code(main)() == 1
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (KeyError("views"), "error: KeyError: 'views'", "'views'"),
        (RuntimeError("one\ntwo"), "error: RuntimeError: one two", "two"),
        (ValueError(OF_A_LOADER), "error: ValueError: no such view", "view"),
        (RuntimeError("CUDA out of memory"), "error: RuntimeError: CUDA", "SOLVER.IMS_PER_BATCH"),
        (MemoryError(), "error: MemoryError; take fewer", "SOLVER.IMS_PER_BATCH"),
        (RuntimeError("DataLoader worker (pid 1) is killed"), "error: RuntimeError: Data", WORKERS),
    ],
)
def test_an_error_of_any_type_is_said_in_the_last_line(error, first, last, capfd):
    def main(arguments=None):
        raise error

    said = last_line(main, capfd)
    assert said.startswith(first)
    assert said.endswith(last)


def test_input_that_cannot_be_used_is_one_line_though_a_loader_process_met_it(capfd):
    def main(arguments=None):
        raise DataError(OF_A_LOADER.replace("ValueError: no such view", "DataError: a.jpg is none"))

    assert with_exit_code(main)() == 2
    assert capfd.readouterr().err == "error: DataError: a.jpg is none\n"


class Functions(torch.utils.data.Dataset):
    """What cannot be pickled, as a batch where shared memory is full cannot be handed over."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return lambda: index


@pytest.mark.fault(
    "A loader process cannot hand over a batch, as where /dev/shm is full",
    cause="batches that cannot be pickled",
    lost="nothing before the last checkpoint, which stays; the run ends, and says what to do",
)
def test_a_batch_that_a_loader_process_cannot_hand_over_ends_the_run(capfd):
    def main(arguments=None):
        list(torch.utils.data.DataLoader(Functions(), batch_size=None, num_workers=1))

    said = last_line(main, capfd)
    assert "DataLoader worker (pid" in said
    assert said.endswith(WORKERS)


def test_names_that_are_no_text_are_printed_with_escapes(capfd):
    def main(arguments=None):
        print(os.fsdecode(b"caf\xe9"))

    assert with_exit_code(main)() == 0
    assert capfd.readouterr().out == "caf\\udce9\n"
