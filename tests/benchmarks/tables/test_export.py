"""An exported backbone: the same tensors in both files, and a card that says what is known."""

import errno
import json
import os
import re
from collections import Counter

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.__main__ import main
from pretrain.runtime import files
from pretrain.runtime.files import sha256_of
from tests.benchmarks.tables.cells import SCENES, VALUES, write_cell
from transfer.convert import METHODS, load_converted
from transfer.convert.__main__ import meta_of
from transfer.convert.backbones import Backbone
from transfer.convert.converted import write_converted

TENSORS = {
    "stem.conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
    "stem.conv1.norm.num_batches_tracked": torch.tensor(7),
    "res5.0.conv1.weight": torch.linspace(-1, 1, 8).reshape(2, 4, 1, 1),
}


@pytest.fixture
def init(tmp_path):
    return write_init(tmp_path)


def write_init(tmp_path, method="clove", source_name="step_00012500.pth", epochs=400.0, data=None):
    """A folder as ``python -m benchmarks run`` leaves it after the conversion, of few tensors."""
    source = tmp_path / source_name
    source.write_bytes(b"a checkpoint")
    backbone = Backbone(METHODS[method], (), "", "student", "", 50, {}, TENSORS, Counter())
    loaded = {"epoch": epochs, "config": {"DATA": {"ROOT": data}}}
    folder = tmp_path / "results" / "clove"
    write_converted(folder / "backbone.pth", TENSORS, meta_of(backbone, source, loaded))
    return folder


def write_own_cell(init, task="coco_fpn", seed=0, **changes):
    """A cell that was fine-tuned from the backbone in ``init``."""
    own = {"method": "clove", "weights_sha256": sha256_of(init / "backbone.pth")}
    return write_cell(init.parent, init.name, task, seed, **own | changes)


def card_of(init, tmp_path, name="out"):
    assert main(["export", str(init), str(tmp_path / name)]) == 0
    return (tmp_path / name / "README.md").read_text()


def head_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def measured(card):
    """The lines of the first table of values."""
    lines = card[card.index("| metric") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_both_files_hold_the_tensors_and_meta_of_the_backbone(init, tmp_path):
    card_of(init, tmp_path)
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["README.md", "backbone.pth", "backbone.safetensors"]
    loaded = torch.load(out / "backbone.pth", weights_only=True)
    tensors = load_file(out / "backbone.safetensors")
    for model in (loaded["model"], tensors):
        assert model.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert model[name].dtype == tensor.dtype
            assert torch.equal(model[name], tensor)
    with safe_open(out / "backbone.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    assert meta == loaded["meta"] == load_converted(init / "backbone.pth")["meta"]


def test_two_exports_of_one_folder_give_the_same_bytes(init, tmp_path):
    write_own_cell(init)
    card_of(init, tmp_path, "first")
    card_of(init, tmp_path, "second")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_the_card_says_what_fine_tuning_must_match(tmp_path):
    card = card_of(write_init(tmp_path, "supervised_msra", "R-50.pkl"), tmp_path)
    for key, value in METHODS["supervised_msra"].config.items():
        assert re.search(rf"`{re.escape(key)}` +\| `{re.escape(str(value))}`", card)


def test_seeds_of_other_configs_are_not_averaged(init, tmp_path):
    write_own_cell(init, seed=0)
    write_own_cell(init, seed=1, config_sha256="0dd" * 20)
    card = card_of(init, tmp_path)
    assert card.count("| metric") == 2
    assert card.count("not averaged with the other rows of clove") == 2
    assert "±" not in "".join(map(str, measured(card)))


@pytest.mark.parametrize(
    ("method", "source_name", "licence", "sentence"),
    [
        ("clove", "step_00012500.pth", "unknown", "unknown: whoever pretrained and publishes"),
        ("clove", "ckpt_epoch_400.pth", "unknown", "unknown (released files: none stated"),
        ("pixpro", "pixpro.pth", "mit", "that of their source: MIT"),
        ("detco", "detco.pth", "other", "that of their source: BSD-2-Clause for academic use"),
        ("densecl", "densecl.pth", "unknown", "unknown (see the source page; the code is Apache"),
    ],
)
def test_the_licence_is_the_sources_or_unknown(tmp_path, method, source_name, licence, sentence):
    card = card_of(write_init(tmp_path, method, source_name), tmp_path)
    assert head_of(card)["license"] == licence
    assert method in head_of(card)["tags"]
    assert sentence in card
    assert ("of `python -m pretrain`" in card) == source_name.startswith("step_")
    assert ("the paper that" in card) == (method != "clove")
    assert "arXiv:2310.00527" in card


def unreadable_cell(init):
    write_own_cell(init).write_text("{")


def cell_of_other_weights(init):
    write_own_cell(init, weights_sha256="ab" * 32)


def cell_of_another_init(init):
    path = write_own_cell(init)
    path.write_text(path.read_text().replace('"init": "clove"', '"init": "clove_400ep"'))


def raw_checkpoint(init):
    torch.save({"model": TENSORS}, init / "backbone.pth")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unreadable_cell, "clove/coco_fpn/seed0/metrics.json: not readable as JSON"),
        (cell_of_other_weights, f"seed0/metrics.json: fine-tuned from weights {'ab' * 32}"),
        (cell_of_another_init, "belongs to clove_400ep/coco_fpn/seed0/metrics.json"),
        (raw_checkpoint, "clove/backbone.pth: not converted for Detectron2"),
    ],
)
def test_a_folder_that_is_not_one_run_stops_and_leaves_nothing(
    init, tmp_path, capsys, damage, message
):
    damage(init)
    before = sorted(os.listdir(tmp_path))
    assert main(["export", str(init), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_the_card_has_values_with_their_data_and_the_hashes_of_all_files(init, tmp_path):
    for seed, value in enumerate((12.0, 14.0)):
        write_own_cell(init, seed=seed, metrics=VALUES | {"segm/AP": value}, data=SCENES)
    card = card_of(init, tmp_path)
    rows = {metric.strip("`"): rest for metric, *rest in measured(card)}
    assert rows["segm/AP"] == ["13.00 ± 1.41", "2"]
    assert rows.keys() == VALUES.keys()
    assert f"`{SCENES['sha256']}`" in card
    assert "**These are not the official data: no value compares with published ones.**" in card
    for path in (tmp_path / "step_00012500.pth", *(tmp_path / "out").glob("backbone.*")):
        assert f"`{sha256_of(path)}`" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    ("root", "data"),
    [
        ("/home/somebody/data/imagenet/train", "`imagenet/train`"),
        ("/photos", "`photos`"),
        (None, "not recorded in the weights"),
    ],
)
def test_the_data_are_the_last_two_folders_of_our_own_checkpoint(tmp_path, root, data):
    card = card_of(write_init(tmp_path, data=root, epochs=None), tmp_path)
    assert re.search(rf"pretraining data +\| {data} +\|", card)
    assert re.search(r"pretraining epochs +\| not recorded in the weights +\|", card)
    assert "None yet." in card


def test_without_a_backbone_there_is_nothing_to_export(tmp_path, capsys):
    write_cell(tmp_path / "results", "random")
    folder = tmp_path / "results" / "random"
    assert main(["export", str(folder), str(tmp_path / "out")]) == 2
    assert f"{folder}: nothing to export, there is no backbone.pth" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_refused(init, tmp_path, capsys):
    card = card_of(init, tmp_path)
    assert main(["export", str(init), str(tmp_path / "out")]) == 2
    assert "exists already; delete it, or name another folder\n" in capsys.readouterr().err
    assert (tmp_path / "out" / "README.md").read_text() == card


def test_a_full_disk_is_named_and_leaves_nothing(init, tmp_path, capsys, monkeypatch):
    before, write = sorted(os.listdir(tmp_path)), files.write_atomically

    def write_until_full(path, fill):
        if path.name == "README.md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, fill)

    monkeypatch.setattr(files, "write_atomically", write_until_full)
    assert main(["export", str(init), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'out'}: not written (No space left on device)" in error
    assert sorted(os.listdir(tmp_path)) == before
