import pytest
import torch

from pretrain.encoder import STAGES
from tests.transfer import peers
from tests.transfer.test_proof import random_trunk
from transfer import convert
from transfer.checkpoints import METHODS, CheckpointError
from transfer.names import to_detectron2
from transfer.reading import load_converted

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trunk():
    return random_trunk("resnet50").state_dict()


def expected(trunk, method):
    counted = method != "supervised_msra"  # its files have no batch counters
    return {
        to_detectron2(key): value
        for key, value in trunk.items()
        if counted or not key.endswith("num_batches_tracked")
    }


def test_every_row_has_a_file_under_test_or_says_why_there_is_none():
    for method in METHODS.values():
        for layout in method.layouts:
            assert (method.name, layout.name) in peers.FILES
        assert method.layouts or method.absent
    assert METHODS["setsim"].absent
    assert "inscon" in METHODS


def test_every_method_of_the_published_tables_has_a_row():
    from benchmarks.tables.published import METHODS as PUBLISHED

    assert set(PUBLISHED) == {"random", *METHODS}


@pytest.mark.parametrize(("method", "layout"), peers.FILES, ids=str)
def test_every_layout_converts_with_equal_tensors_and_equal_features(
    method, layout, trunk, tmp_path, capsys
):
    path = peers.write(method, layout, trunk, tmp_path)
    with pytest.raises(CheckpointError, match=rf"Run: python -m transfer\.convert .*{path.name}"):
        load_converted(path)
    out = tmp_path / "out.pth"
    known = peers.FILES[method, layout][3]
    arguments = [] if known else ["--method", method]
    # The proof within compares the features of every stage with torchvision's, in C4 and in FPN.
    assert convert.main([str(path), str(out), *arguments]) == 0
    said = capsys.readouterr().out
    assert f"method   {method} " in said
    assert all(f"{stage:5} C4 " in said for stage in STAGES)
    converted = load_converted(out)
    wanted = expected(trunk, method)
    assert converted["model"].keys() == wanted.keys()
    assert all(torch.equal(converted["model"][key], wanted[key]) for key in wanted)
    assert converted["meta"]["method"] == method
    assert converted["meta"]["config"] == METHODS[method].config | {"MODEL.RESNETS.DEPTH": 50}


@pytest.mark.parametrize(
    ("method", "layout"), [key for key, value in peers.FILES.items() if not value[3]], ids=str
)
def test_what_could_be_several_methods_names_them_and_stops(
    method, layout, trunk, tmp_path, capsys
):
    path = peers.write(method, layout, trunk, tmp_path)
    code = convert.main([str(path), str(tmp_path / "out.pth")])
    if layout == "C4 training file":  # not to be told from MoCo v2's
        assert "method   moco (recognised" in capsys.readouterr().out
        return
    assert code == 2
    such = capsys.readouterr().err.split("say whose it is, --method NAME (see --list")[1]
    assert method in such or "names" in layout  # which nobody releases


@pytest.mark.parametrize(
    ("method", "layout"),
    [
        ("densecl", "released file"),
        ("moco", "v2, or ReSim-C4 training, file"),
        ("resim", 'numpy "Detectron backbone" file'),
        ("supervised_msra", "R-50.pkl, R-101.pkl of Detectron2's model zoo"),
    ],
    ids=str,
)
def test_a_resnet_101_converts_too(method, layout, tmp_path, capsys):
    trunk = random_trunk("resnet101").state_dict()
    path, out = peers.write(method, layout, trunk, tmp_path), tmp_path / "out.pth"
    assert convert.main([str(path), str(out)]) == 0
    assert "R101" in capsys.readouterr().out
    converted = load_converted(out)
    assert converted["meta"]["depth"] == 101
    wanted = expected(trunk, method)
    assert converted["model"].keys() == wanted.keys()
    assert all(torch.equal(converted["model"][key], wanted[key]) for key in wanted)
