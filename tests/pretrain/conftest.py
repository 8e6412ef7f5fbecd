import logging
import socket

import pytest

from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE


@pytest.fixture(autouse=True)
def _no_log_of_another_test():
    """A run's log is written to no more once its test is over, and its folder gone."""
    yield
    logger = logging.getLogger("pretrain")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def clove_r50():
    return CLoVE(build_encoder("resnet50"))


@pytest.fixture
def unused_port():
    """A port of this machine that nothing listened on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
