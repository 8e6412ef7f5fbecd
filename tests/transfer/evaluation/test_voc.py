"""VOC's 11-point AP, against a slow version from the formula."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import register_pascal_voc
from detectron2.structures import Boxes, Instances

from transfer.config import default_config
from transfer.data.layout import DataError
from transfer.evaluation import build_evaluator

CLASSES = ("cat", "dog", "emu")  # no emu is ever labelled
IMAGES, SIZE = 14, 100
NAME = "voc_evaluation_test"


@pytest.fixture(scope="module")
def truth():
    """image: [(class, box with the first pixel 1, difficult)]."""
    random = np.random.default_rng(7)
    labels = {}
    for image in range(IMAGES):
        labels[f"{image:06d}"] = own = []
        for _ in range(random.integers(0, 5)):
            x, y = random.integers(1, SIZE - 30, 2)
            w, h = random.integers(8, 30, 2)
            box = np.array([x, y, x + w - 1, y + h - 1])
            own.append((int(random.integers(2)), box, bool(random.random() < 0.2)))
    return labels


@pytest.fixture(scope="module")
def detections(truth):
    """image: [(class, score, box)], as exact as Detectron2 writes them; all scores differ."""
    random = np.random.default_rng(8)
    scores = iter(random.permutation(1000) / 1000)
    found = defaultdict(list)
    for image, labels in truth.items():
        for kind, box, _ in labels:
            for _ in range(random.integers(0, 3)):
                moved = np.round(box + random.normal(0, 2, 4), 1)
                found[image].append((kind, next(scores), moved))
        found[image].append((int(random.integers(3)), next(scores), np.array([5.0, 5, 40, 40])))
    return found


@pytest.fixture(params=[2007])
def registered(truth, tmp_path, request):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("\n".join(truth) + "\n")
    for image, labels in truth.items():
        write_xml(tmp_path / "Annotations" / f"{image}.xml", labels)
    register_pascal_voc(NAME, str(tmp_path), "test", request.param, class_names=CLASSES)
    MetadataCatalog.get(NAME).evaluator_type = "pascal_voc"
    yield tmp_path
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


def write_xml(path, labels):
    objects = "".join(
        f"<object><name>{CLASSES[kind]}</name><pose>Left</pose><truncated>0</truncated>"
        f"<difficult>{int(difficult)}</difficult><bndbox>"
        + "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>".format(*box)
        + "</bndbox></object>"
        for kind, box, difficult in labels
    )
    path.write_text(f"<annotation>{objects}</annotation>")


def evaluate(truth, detections):
    evaluator = build_evaluator(default_config(), NAME)
    evaluator.reset()
    for image in truth:
        own = detections.get(image, [])
        instances = Instances((SIZE, SIZE))
        # Detectron2's boxes begin at 0, and adds 1 to their first corner.
        boxes = torch.tensor(np.array([box for *_, box in own]).reshape(-1, 4))
        instances.pred_boxes = Boxes(boxes - torch.tensor([1, 1, 0, 0]))
        instances.scores = torch.tensor([score for _, score, _ in own])
        instances.pred_classes = torch.tensor([kind for kind, *_ in own], dtype=torch.int64)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def overlap(a, b):
    """Of boxes whose last pixel is theirs."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = np.prod(np.maximum(high - low + 1, 0))
    area = [np.prod(box[2:] - box[:2] + 1) for box in (a, b)]
    return inside / (area[0] + area[1] - inside)


def slow_ap(truth, detections, kind, threshold):
    """The mean over recalls 0, 0.1, ... 1 of the best precision from that recall on."""
    objects = sum(k == kind and not hard for own in truth.values() for k, _, hard in own)
    ranked = sorted(
        ((s, image, box) for image, own in detections.items() for k, s, box in own if k == kind),
        key=lambda entry: -entry[0],
    )
    hits, taken = [], set()
    for _, image, box in ranked:
        own = [(n, label) for n, label in enumerate(truth[image]) if label[0] == kind]
        best = max(own, key=lambda entry: overlap(entry[1][1], box), default=None)
        if best is None or overlap(best[1][1], box) <= threshold:
            hits.append(False)
        elif not best[1][2]:  # a difficult one counts neither way
            hits.append((image, best[0]) not in taken)
            taken.add((image, best[0]))
    points = [
        (sum(hits[: n + 1]) / objects, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))
    ]
    recalls = np.arange(0.0, 1.1, 0.1)
    return 100 * np.mean([max((p for r, p in points if r >= t), default=0) for t in recalls])


def test_equals_the_formula(registered, truth, detections):
    table = {
        threshold: np.mean([slow_ap(truth, detections, k, threshold) for k in (0, 1)]) * 2 / 3
        for threshold in [t / 100 for t in range(50, 100, 5)]  # emus score 0
    }
    found = evaluate(truth, detections)
    assert found["AP50"] == pytest.approx(table[0.5], abs=1e-9)
    assert found["AP75"] == pytest.approx(table[0.75], abs=1e-9)
    assert found["AP"] == pytest.approx(np.mean(list(table.values())), abs=1e-9)
    assert 5 < found["AP"] < found["AP50"] < 60


@pytest.mark.parametrize("registered", [2012], indirect=True)
def test_a_class_without_objects_scores_zero_in_2012_too(registered, truth, detections):
    found = evaluate(truth, detections)
    no_emus = {image: [d for d in own if d[0] < 2] for image, own in detections.items()}
    assert evaluate(truth, no_emus) == found
    assert 5 < found["AP"] < found["AP50"] < 60


def test_a_file_that_cannot_be_evaluated_is_named_before_the_training(registered):
    path = next((registered / "Annotations").iterdir())
    write_xml(path, [(0, np.array([1, 1, 2, 2]), False)])
    path.write_text(path.read_text().replace("<truncated>0</truncated>", ""))
    with pytest.raises(DataError, match=rf"{path.name}: an object lacks one of name, pose"):
        build_evaluator(default_config(), NAME)
