"""kNN and the linear probe against slow versions, their folder, and the command that prints all."""

import copy
import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from pretrain import measure
from pretrain.data import DataError
from pretrain.monitor import probes
from pretrain.train import train
from tests.pretrain.monitor.tiny_maps import clove
from tests.pretrain.tiny import config, write_images


def test_knn_is_the_weighted_vote_of_the_definition(monkeypatch):
    monkeypatch.setattr(probes, "NEIGHBOURS", 5)
    rng = np.random.default_rng(0)
    features, queries = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    labels, expected = rng.integers(0, 4, 40), rng.integers(0, 4, 30)

    def vote(query):
        cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
        votes = dict.fromkeys(range(4), 0.0)
        for n in np.argsort(-cosines)[:5]:
            votes[labels[n]] += np.exp(cosines[n] / 0.07)
        return max(votes, key=votes.get)

    right = np.mean([vote(query) == of for query, of in zip(queries, expected, strict=True)])
    tensors = (torch.from_numpy(each) for each in (features, labels, queries, expected))
    tensors = (each.float() if each.is_floating_point() else each for each in tensors)
    assert probes.knn_accuracy(*tensors) == pytest.approx(right)
    assert 0.1 < right < 0.9


def test_the_probe_is_ridge_regression_and_every_class_weighs_the_same():
    rng = np.random.default_rng(0)
    cells, queries = rng.normal(size=(200, 5)), rng.normal(size=(100, 5))
    labels = (cells[:, 0] > 1).astype(int) + (cells[:, 1] + 0.5 * rng.normal(size=200) > 0)
    expected = (queries[:, 0] > 1).astype(int) + (queries[:, 1] > 0)
    onehot, (mean, std) = np.eye(3)[labels], (cells.mean(0), cells.std(0, ddof=1))
    # Ridge regression as least squares with rows of its own for the penalty
    rows = np.concatenate([(cells - mean) / std, np.sqrt(1e-3 * 200) * np.eye(5)])
    targets = np.concatenate([onehot - onehot.mean(0), np.zeros((5, 3))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    found = ((queries - mean) / std @ weights + onehot.mean(0)).argmax(1)
    accuracy = np.mean([(found[expected == one] == one).mean() for one in range(3)])
    arguments = (torch.from_numpy(each) for each in (cells, labels, queries, expected))
    assert probes.probe_accuracy(*arguments) == pytest.approx(accuracy, abs=1e-6)
    assert 0.4 < accuracy < 0.99


@pytest.fixture
def labelled(tmp_path):
    """Dark and bright images as classes; images whose left half is dark, with its label map."""
    rng = np.random.default_rng(0)
    root = tmp_path / "labelled"
    for folder in ("classes/dark", "classes/bright", "images", "labels"):
        (root / folder).mkdir(parents=True)
    for n in range(6):
        noise = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "classes" / "dark" / f"{n}.png"), noise)
        cv2.imwrite(str(root / "classes" / "bright" / f"{n}.png"), noise + 190)
        bright = np.arange(64) >= 32
        cv2.imwrite(
            str(root / "images" / f"{n}.png"), noise + bright[None, :, None] * np.uint8(190)
        )
        labels = np.broadcast_to(np.where(bright, 3, 1), (64, 64)).astype(np.uint8).copy()
        labels[:40, :32] = 255 if n == 1 else labels[:40, :32]
        cv2.imwrite(str(root / "labels" / f"{n}.png"), labels)
    return root


def test_what_is_easy_to_see_is_found_by_both_probes(labelled):
    model = clove()
    before = copy.deepcopy(model.state_dict())
    labels = probes.Labels(labelled, 64)
    assert labels.classes[0].shape == (12, 3, 64, 64)
    assert set(labels.maps[1].unique().tolist()) == {1, 3, 255}
    values = probes.measure(model, labels, torch.device("cpu"))
    assert values == {"knn_accuracy": 1.0, "probe_accuracy": 1.0}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, r"neither classes/<class>/.* nor images/ .*LABELS"),
        ("labels/3.png", r"labels/3\.png: cannot be read .*every image needs its"),
        ((32, 64), r"labels/3\.png: is no map of class numbers of its image's size"),
        ((64, 64, 3), r"labels/3\.png: is no map of class numbers of its image's size"),
        ("images/2.png", r"images/2\.png: cannot be read; remove it"),
    ],
)
def test_a_folder_that_does_not_fit_is_named_with_the_way_out(labelled, spoil, message):
    if callable(spoil):
        spoil(labelled)
    elif isinstance(spoil, str):
        (labelled / spoil).write_bytes(b"")
    else:
        cv2.imwrite(str(labelled / "labels" / "3.png"), np.zeros(spoil, np.uint8))
    with pytest.raises(DataError, match=message):
        probes.Labels(labelled, 64)


def test_a_run_with_labels_logs_what_they_say_and_the_command_prints_every_monitor(
    labelled, tmp_path, capsys
):
    images, run = write_images(tmp_path / "images"), tmp_path / "run"
    settings = {"MONITOR__PERIOD": 5, "MONITOR__IMAGES": 3, "MONITOR__LABELS": labelled}
    train(config(images, run, SOLVER__EPOCHS=1, **settings))
    lines = map(json.loads, (run / "metrics.jsonl").open())
    found = [line for line in lines if "monitor/knn_accuracy" in line]
    assert [line["step"] for line in found] == [0, 2]
    assert all(0 <= line["monitor/probe_accuracy"] <= 1 for line in found)

    capsys.readouterr()
    arguments = [run, images, "--labels", labelled]
    assert measure.main(list(map(str, arguments))) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["monitor", "trained", "untrained"]
    values = {name: list(map(float, rest)) for name, *rest in map(str.split, lines)}
    assert {"match_rate", "match_chance", "effective_rank", "knn_accuracy"} <= values.keys()
    assert values["match_chance"][0] == values["match_chance"][1]
    assert values["positive_similarity"][0] != values["positive_similarity"][1]
    assert measure.main([str(tmp_path / "none.pth"), str(images)]) == 2
    assert "none.pth: cannot be read" in capsys.readouterr().err
