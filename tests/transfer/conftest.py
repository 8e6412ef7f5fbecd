import logging

import pytest
import torch

from tests.transfer.convert.layouts import filled


@pytest.fixture(scope="session")
def trunk():
    """A ResNet-50 trunk of formula-filled tensors; do not change them in place."""
    return filled()


@pytest.fixture
def one_thread():
    """Small maps gain nothing from threads, and lose much where other jobs share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_log_handlers():
    """Detectron2 keeps its handlers, and with them the captured output of an earlier test."""
    yield
    for name in ("fvcore", "detectron2", "transfer"):
        logging.getLogger(name).handlers.clear()
