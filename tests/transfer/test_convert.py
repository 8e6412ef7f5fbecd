import subprocess
import sys
from collections import Counter

import pytest
import torch
import torchvision

from pretrain.encoder import STAGES, build_encoder
from pretrain.runtime import files
from tests.transfer.layouts import GOLDEN, KEY_MAP, own, released, under
from transfer import proof
from transfer.checkpoints import METHODS
from transfer.convert import (
    ConversionError,
    _counts,
    _epochs,
    convert,
    list_methods,
    main,
    to_detectron2,
)
from transfer.reading import load_converted

RGB = METHODS["clove"].config

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
        "named": to_detectron2(own(trunk), method="clove"),
        "state dict": to_detectron2(released(trunk)["model"]),
        "encoder alone": to_detectron2({"model": under("module.encoder.", trunk)}),
        "bare": to_detectron2(trunk),
        "torchvision": to_detectron2(trunk | {"fc.weight": torch.zeros(1000, 2048)}),
        "prefix": to_detectron2({"state_dict": under("my.net.", trunk)}, prefix="my.net"),
        "numpy": to_detectron2({key: value.numpy() for key, value in trunk.items()}),
    }
    for name, converted in layouts.items():
        assert converted.keys() == expected.keys(), name
        assert all(torch.equal(converted[key], expected[key]) for key in expected), name


def test_without_batch_counters_265_entries_come_out(trunk):
    uncounted = {k: v for k, v in trunk.items() if not k.endswith("num_batches_tracked")}
    converted = to_detectron2(uncounted)
    assert len(converted) == 265
    conversion = convert(uncounted)
    proof.prove(conversion.torchvision, conversion.detectron2, RGB, 50)


def test_tensors_come_out_contiguous_in_float32_and_alone_in_their_storage(trunk):
    changed = dict(trunk)
    changed["conv1.weight"] = trunk["conv1.weight"].half().to(memory_format=torch.channels_last)
    changed["layer1.0.conv1.weight"] = trunk["layer1.0.conv1.weight"].double()
    shared = torch.zeros(10_000)
    changed["bn1.bias"] = shared[:64]
    converted = to_detectron2(changed)
    for key, value in converted.items():
        assert value.dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        assert value.is_contiguous()
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    rounded = trunk["conv1.weight"].half().float()
    assert torch.equal(converted["stem.conv1.weight"], rounded)


@pytest.mark.parametrize(("depth", "entries"), [(101, 624), (152, 930)])
def test_deeper_resnets_convert_by_their_own_depth(depth, entries):
    conversion = convert(build_encoder(f"resnet{depth}").state_dict())
    assert conversion.depth == depth
    assert len(conversion.detectron2) == entries


# ---------------------------------------------------------------------------------------------
# What does not fit


@pytest.mark.parametrize("arch", ["resnet18", "resnet34"])
def test_resnets_without_bottlenecks_are_refused_with_a_sentence(arch):
    state = under("student.encoder.", build_encoder(arch).state_dict())
    with pytest.raises(ConversionError, match=f"ResNet-{arch[6:]}. It can be pretrained, but"):
        to_detectron2({"model": state}, method="clove")


@pytest.mark.parametrize(
    ("arch", "detail"),
    [
        ("wide_resnet50_2", r"layer1\.0\.conv1\.weight is \(128, 64, 1, 1\), not \(64, 64, 1, 1\)"),
        ("resnext50_32x4d", "have other shapes than a ResNet-50's"),
        ("resnext101_32x8d", "have other shapes than a ResNet-101's"),
    ],
)
def test_wide_and_grouped_resnets_are_refused_by_their_shapes(arch, detail):
    with torch.device("meta"):
        state = torchvision.models.get_model(arch).state_dict()
    with pytest.raises(ConversionError, match=detail) as caught:
        to_detectron2(state)
    assert "Only plain ResNet-50, 101 and 152 convert" in str(caught.value)


def test_a_deep_stem_is_refused(trunk):
    deep = {key: value for key, value in trunk.items() if key != "conv1.weight"}
    deep |= {f"conv1.{k}.weight": torch.zeros(1) for k in (0, 3, 6)}
    with pytest.raises(ConversionError, match=r"3 of 320 .* no place .*\(conv1\.0\.weight, "):
        to_detectron2(deep)


def test_missing_misshaped_extra_and_foreign_entries_stop_with_their_names(trunk):
    missing = {key: value for key, value in trunk.items() if "layer3.5.bn2" not in key}
    with pytest.raises(ConversionError, match=r"^f\.pth: 5 of the 318 .*missing \(layer3\.5\.bn2"):
        convert(missing, name="f.pth")
    counter = {k: v for k, v in trunk.items() if k != "layer1.0.bn1.num_batches_tracked"}
    with pytest.raises(ConversionError, match=r"1 of the 318 .*num_batches_tracked"):
        to_detectron2(counter)
    few = {key: trunk[key] for key in list(trunk)[:20]}
    with pytest.raises(ConversionError, match="298 of the 318 entries of a ResNet-50 are missing"):
        to_detectron2(few)
    with pytest.raises(ConversionError, match=r"bn1\.bias is \(63,\), not \(64,\)"):
        to_detectron2(trunk | {"bn1.bias": torch.zeros(63)})
    with pytest.raises(ConversionError, match=r"1 of 319 .*no place.*\(layer3\.6\.conv1\.weight\)"):
        to_detectron2(trunk | {"layer3.6.conv1.weight": torch.zeros(1)})
    with pytest.raises(ConversionError, match=r"bn1\.bias is a str, not \(64,\)"):
        to_detectron2(trunk | {"bn1.bias": "zeros"})
    with pytest.raises(ConversionError, match=r"holds torch\.int64, not floating-point weights"):
        to_detectron2(trunk | {"bn1.bias": torch.zeros(64, dtype=torch.int64)})
    with pytest.raises(ConversionError, match="not a plain tensor"):
        to_detectron2(trunk | {"bn1.bias": torch.zeros(64).to_sparse()})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_stop(trunk, value):
    broken = trunk["layer2.0.conv1.weight"].clone()
    broken.view(-1)[[3, 5]] = value
    with pytest.raises(ConversionError, match=r"layer2\.0\.conv1\.weight holds 2 values that are"):
        to_detectron2(trunk | {"layer2.0.conv1.weight": broken})


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
    assert "method   clove (recognised: checkpoint of python -m pretrain, model holds" in said
    assert "network  student (student.encoder. prefix), R50" in said
    assert (
        "kept     318 entries: conv1 1, bn1 5, layer1 60, layer2 78, layer3 114, layer4 60" in said
    )
    assert "dropped  321 entries: student 1, teacher 319, attention 1" in said
    assert all(f"{stage:5} C4 " in said for stage in STAGES)
    assert "INPUT.FORMAT RGB" in said

    loaded = torch.load(out, weights_only=True)
    assert loaded["format"] == 1
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
    }
    assert out.stat().st_size < 1.01 * 4 * sum(v.numel() for v in trunk.values())

    before = out.read_bytes()
    assert main([str(source), str(out), "--method", "clove"]) == 0
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.pth", "checkpoints"]


def test_nothing_is_written_when_the_proof_fails(trunk, tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "resnet50.pth", tmp_path / "out.pth"
    torch.save(trunk | {"fc.weight": torch.zeros(2)}, source)
    monkeypatch.setitem(METHODS["supervised"].config, "MODEL.RESNETS.STRIDE_IN_1X1", True)
    assert main([str(source), str(out)]) == 2
    assert "Nothing was written" in capsys.readouterr().err
    assert not out.exists()


def test_a_file_that_could_be_anybodys_needs_a_method(trunk, tmp_path, capsys):
    source, out = tmp_path / "trunk.pth", tmp_path / "out.pth"
    torch.save(trunk, source)
    assert main([str(source), str(out)]) == 2
    said = capsys.readouterr().err
    assert "the top level holds a bare backbone, as files of several methods do" in said
    assert "--method NAME (see --list; detco, slotcon, vicregl, dino release such files)" in said
    assert main([str(source), str(out), "--method", "supervised"]) == 0
    assert load_converted(out)["meta"]["method"] == "supervised"


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("none.pth", "out.pth", "none.pth: no such file"),
        ("", "out.pth", "no checkpoints/step_*.pth in it"),
        ("some.pth", "out.pkl", "out.pkl: converted weights must be a file named *.pth"),
        ("some.pth", "some.pth", "would overwrite its own source"),
        ("some.pth", "out.pth", "some.pth: no backbone as method auto knows it"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(tmp_path, capsys, source, out, message):
    torch.save({"model": {"backbone.x": torch.zeros(1)}}, tmp_path / "some.pth")
    assert main([str(tmp_path / source), str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out.pth").exists()


def test_the_command_line_has_no_traceback_for_a_truncated_file(tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    command = [sys.executable, "-m", "transfer.convert", tmp_path / "cut.pth", tmp_path / "o.pth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=GOLDEN.parents[1])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/cut.pth: not a complete")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("epoch", [10**400, float("nan"), -1, "many", None])
def test_an_epoch_that_is_none_is_left_out(epoch):
    assert _epochs({"epoch": epoch}) is None
    assert _epochs({"epoch": 200}) == 200.0


def test_names_from_a_file_are_printed_without_control_characters():
    said = _counts(Counter({"a\x1b[2J\ud800": 2, "b" * 1000: 1}))
    assert said == f"3 entries: a?[2J? 2, {'b' * 80} 1"


def test_weights_of_eight_bits_convert(trunk):
    small = trunk["layer1.0.conv1.weight"].to(torch.float8_e4m3fn)
    converted = to_detectron2(trunk | {"layer1.0.conv1.weight": small})
    assert torch.equal(converted["res2.0.conv1.weight"], small.float())


def test_list_prints_a_row_for_every_method_and_layout(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert said.strip() == list_methods()
    for method in METHODS.values():
        assert method.source in said
        assert all(layout.name in said for layout in method.layouts)
