import pytest

from pretrain.clove import CLoVE
from pretrain.encoder import build_encoder


@pytest.fixture
def clove_r50():
    return CLoVE(build_encoder("resnet50"))
