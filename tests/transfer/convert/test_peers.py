import pytest
import torch

from pretrain.runtime.reading import read
from tests.transfer.convert import peers
from tests.transfer.convert.layouts import random_trunk, small_trunk
from transfer.convert import CheckpointError, load_converted
from transfer.convert.__main__ import main
from transfer.convert.backbones import find_backbone
from transfer.convert.layouts import LAYOUTS, METHODS, allowed


def test_every_layout_has_files_under_test():
    tested = {method for method, _ in peers.FILES}
    assert {layout.method for layout in LAYOUTS} | {"other"} == tested
    assert METHODS.keys() - tested == {"inscon"}


def test_every_method_of_the_published_tables_has_a_row():
    from benchmarks.tables.published import METHODS as PUBLISHED

    assert set(PUBLISHED) - {"random"} <= set(METHODS)


@pytest.mark.parametrize(("method", "name"), peers.FILES, ids=str)
def test_every_file_converts_as_the_network_that_its_method_transfers(method, name, tmp_path):
    trunk = small_trunk()
    path = peers.write(method, name, trunk, tmp_path)
    with pytest.raises(CheckpointError, match=rf"Run: python -m transfer\.convert .*{path.name}"):
        load_converted(path)
    network, known = peers.FILES[method, name][2:]
    told = find_backbone(read(path, allowed(method)), method)
    assert (told.method.name, told.network, told.depth) == (method, network, 50)
    # The model zoo's files have no batch counters
    counted = [key for key in trunk if method != "supervised_msra" or "num_batches" not in key]
    assert list(told.torchvision) == counted or set(told.torchvision) == set(counted)
    assert all(torch.equal(told.torchvision[key], trunk[key]) for key in counted)
    found = find_backbone(read(path, allowed()))
    assert found.place == told.place
    assert (found.method.name if found.method else None) == (method if known else None)
    assert known or method in found.candidates or "only" in network


@pytest.mark.parametrize(
    ("method", "name"),
    [("dino", "model_final_fpn.pth"), ("supervised_msra", "R-50.pkl")],
    ids=str,
)
def test_a_resnet_101_converts_and_its_features_are_proved_equal(method, name, tmp_path, capsys):
    trunk = random_trunk("resnet101").state_dict()
    path, out = peers.write(method, name, trunk, tmp_path), tmp_path / "out.pth"
    assert main([str(path), str(out), "--method", method]) == 0
    assert "R101" in capsys.readouterr().out
    meta = load_converted(out)["meta"]
    assert meta["depth"] == 101
    trunk = {"MODEL.RESNETS.DEPTH": 101, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256}
    assert meta["config"] == METHODS[method].config | trunk


@pytest.mark.parametrize("method", ["moco", "vicregl", "soco"])
def test_a_file_that_several_methods_have_needs_a_method_and_the_error_lists_them(
    method, tmp_path, capsys
):
    name = next(name for (each, name), row in peers.FILES.items() if each == method and not row[3])
    path = peers.write(method, name, small_trunk(), tmp_path)
    assert main([str(path), str(tmp_path / "out.pth")]) == 2
    said = capsys.readouterr().err
    assert f"such files: {'moco, resim' if method == 'moco' else ''}" in said
    assert said.strip().endswith(f"by --method, one of {', '.join(METHODS)}. Nothing was written")
