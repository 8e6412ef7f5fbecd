import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pretrain.encoder import STAGES, build_encoder
from pretrain.runtime import files
from tests.transfer.convert.layouts import KEY_MAP, own, released, under
from transfer.convert import CheckpointError, load_converted, to_detectron2
from transfer.convert.__main__ import main
from transfer.convert.layouts import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------------------------------------
# Names and tensors


def test_golden_key_map_shapes_and_sums_are_reproduced(trunk):
    converted = to_detectron2(released(trunk))
    assert list(converted) == [row["target"] for row in KEY_MAP]
    assert len(converted) == 318
    for row in KEY_MAP:
        value = converted[row["target"]]
        assert list(value.shape) == row["shape"]
        assert str(value.dtype) == f"torch.{row['dtype']}"
        assert value.double().sum().item() == pytest.approx(row["sum"], abs=1e-9), row["target"]


def test_every_layout_of_the_same_weights_converts_to_the_same_tensors(trunk):
    expected = to_detectron2(released(trunk), method="clove")
    layouts = {
        "ours": to_detectron2(own(trunk)),
        "encoder alone": to_detectron2({"model": under("module.encoder.", trunk)}),
        "bare": to_detectron2(trunk),
        "prefix": to_detectron2({"state_dict": under("my.net.", trunk)}, prefix="my.net"),
        "numpy": to_detectron2({key: value.numpy() for key, value in trunk.items()}),
    }
    for name, converted in layouts.items():
        assert converted.keys() == expected.keys(), name
        assert all(torch.equal(converted[key], expected[key]) for key in expected), name


def test_tensors_come_out_contiguous_in_float32_and_alone_in_their_storage(trunk):
    changed = dict(trunk)
    changed["conv1.weight"] = trunk["conv1.weight"].half().to(memory_format=torch.channels_last)
    changed["layer1.0.conv1.weight"] = trunk["layer1.0.conv1.weight"].to(torch.float8_e4m3fn)
    changed["bn1.bias"] = torch.zeros(10_000)[:64]
    converted = to_detectron2(changed)
    for key, value in converted.items():
        assert value.dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        assert value.is_contiguous()
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    assert torch.equal(converted["stem.conv1.weight"], trunk["conv1.weight"].half().float())


@pytest.mark.parametrize(("depth", "entries"), [(18, 120), (34, 216), (101, 624), (152, 930)])
def test_other_depths_convert_by_their_own_depth_with_or_without_batch_counters(depth, entries):
    state = build_encoder(f"resnet{depth}").state_dict()
    assert len(to_detectron2(state)) == entries
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    uncounted = {key: value for key, value in state.items() if key not in counters}
    assert len(to_detectron2(uncounted)) == entries - len(counters)


# ---------------------------------------------------------------------------------------------
# What does not fit


@pytest.mark.parametrize(
    ("arch", "detail"),
    [
        ("wide_resnet50_2", r"layer1\.0\.conv1\.weight is \(128, 64, 1, 1\), not \(64, 64, 1, 1\)"),
        ("resnext50_32x4d", "do not fit the 318 of a ResNet-50.*of 18, 34, 50, 101, 152 layers"),
        ("resnext101_32x8d", "do not fit the 624 of a ResNet-101.*Only plain ResNets"),
    ],
)
def test_other_resnets_are_refused_with_a_sentence(arch, detail):
    with torch.device("meta"):
        state = torchvision.models.get_model(arch).state_dict()
    with pytest.raises(CheckpointError, match=detail):
        to_detectron2(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.5.bn2.weight": None}, r"1 of 317 .*layer3\.5\.bn2\.weight is missing, not \(256"),
        ({"bn1.bias": torch.zeros(63)}, r"bn1\.bias is \(63,\), not \(64,\)"),
        (
            {"layer3.6.conv1.weight": torch.zeros(1)},
            r"layer3\.6\.conv1\.weight is \(1,\), not a pa",
        ),
        ({"conv1.weight": None, "conv1.0.weight": torch.zeros(1)}, r"conv1\.0\.weight .*deep stem"),
        ({"bn1.bias": torch.zeros(64, dtype=torch.int64)}, "not a plain tensor.*int64"),
        ({"bn1.bias": torch.zeros(64).to_sparse()}, "not a plain tensor.*sparse"),
        ({"bn1.bias": torch.full((64,), float("nan"))}, r"bn1\.bias holds 64 values that are NaN"),
    ],
)
def test_missing_misshaped_extra_and_foreign_entries_stop_with_their_names(trunk, change, message):
    state = {key: value for key, value in (trunk | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        to_detectron2(state)


# ---------------------------------------------------------------------------------------------
# The command


def test_a_run_folder_converts_to_a_safe_file_that_says_what_fine_tuning_must_match(
    trunk, tmp_path, capsys
):
    (tmp_path / "checkpoints").mkdir()
    source = tmp_path / "checkpoints/step_00000010.pth"
    torch.save(own(trunk), source)
    (tmp_path / "checkpoints/step_00000020.pth").write_bytes(source.read_bytes()[:5000])
    out = tmp_path / "backbone.pth"
    assert main([str(tmp_path), str(out)]) == 0
    said = capsys.readouterr().out
    assert "method   clove (recognised: checkpoint of python -m pretrain)" in said
    assert "network  student (model.student.encoder. prefix), R50" in said
    assert "kept     318 entries\n" in said
    assert "dropped  321 entries: " in said
    assert all(f"{stage:5} C4 " in said for stage in STAGES)

    loaded = torch.load(out, weights_only=True)
    assert loaded["matching_heuristics"] is True
    assert loaded["__author__"]
    assert loaded["model"].keys() == to_detectron2(own(trunk)).keys()
    meta = load_converted(out)["meta"]
    assert meta["source_name"] == "step_00000010.pth"
    assert meta["source_sha256"] == files.sha256_of(source)
    assert meta["pretrain_epochs"] == 2.5
    assert meta["packages"]["torch"]
    picked = {key: meta[key] for key in ("method", "network", "depth", "entries")}
    assert picked == {"method": "clove", "network": "student", "depth": 50, "entries": 318}
    assert meta["config"] == {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    }
    assert out.stat().st_size < 1.01 * 4 * sum(v.numel() for v in trunk.values())

    before = out.read_bytes()
    assert main([str(source), str(out), "--method", "clove"]) == 0
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.pth", "checkpoints"]


def test_a_safetensors_file_of_a_method_that_is_not_in_the_table_converts(trunk, tmp_path):
    source, out = tmp_path / "model.safetensors", tmp_path / "out.pth"
    save_file(trunk, source)
    assert main([str(source), str(out), "--method", "other"]) == 0
    meta = load_converted(out)["meta"]
    assert (meta["method"], meta["license"]) == ("other", "unknown")
    assert meta["config"]["INPUT.FORMAT"] == "RGB"


def test_nothing_is_written_when_the_proof_fails(trunk, tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "resnet50.pth", tmp_path / "out.pth"
    torch.save(trunk | {"fc.weight": torch.zeros(2)}, source)
    monkeypatch.setitem(METHODS["supervised"].config, "MODEL.RESNETS.STRIDE_IN_1X1", True)
    assert main([str(source), str(out)]) == 2
    assert "Nothing was written" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("none.pth", "out.pth", "none.pth: cannot be read (No such file"),
        ("", "out.pth", "no checkpoints/step_*.pth in it"),
        ("some.pth", "out.pkl", "out.pkl: converted weights must be a file named *.pth"),
        ("cut.pth", "out.pth", "cut.pth: not a complete, plain PyTorch checkpoint"),
        ("some.pth", "some.pth", "would overwrite its own source"),
        ("some.pth", "out.pth", "some.pth: no backbones for method auto"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(tmp_path, capsys, source, out, message):
    torch.save({"model": {"backbone.x": torch.zeros(1)}}, tmp_path / "some.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    assert main([str(tmp_path / source), str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out.pth").exists()


# ---------------------------------------------------------------------------------------------
# Converted files
