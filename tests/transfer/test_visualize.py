"""Pictures of predictions: what the panels show, which images are drawn, the command's flag."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from torch import nn

from benchmarks.scenes.generate import Request, generate
from pretrain.runtime.interrupt import InterruptFlag
from tests.transfer.tiny import FAST, SCENES, data_sets_at, write_coco
from transfer.__main__ import main
from transfer.config import resolve
from transfer.data.stream import seeded
from transfer.densepose.chart import ChartOutputs
from transfer.densepose.inference import labels_and_uv
from transfer.tasks import TASKS
from transfer.train import Run
from transfer.visualize import (
    CHART_COLORS,
    GAP,
    ORDERED,
    PAINTS,
    PANEL_SIZE,
    choose,
    draw,
    ground_truth,
    in_float32,
    visualize,
)

pytestmark = pytest.mark.usefixtures("one_thread")
PERSON = Metadata(thing_classes=["person"])
HEIGHT, WIDTH = 400, 600
BOX = (100.0, 50.0, 340.0, 370.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images that are not enlarged, so that Visualizer's own drawing is what is to be seen."""
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    size = PANEL_SIZE * 3 // 2  # and 2/3 of it at least
    generate(folder, Request(unlabelled=0, train=1, val=3, longest_side=size, seed=2))
    with data_sets_at(folder):
        yield folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def panels(picture, rows=1):
    """The panels of a picture, by row and side."""
    pictures = np.split(np.asarray(picture), rows)
    width = (pictures[0].shape[1] - GAP) // 2
    return [(p[:, :width], p[:, width + GAP :]) for p in pictures]


class Recorded(nn.Module):
    """A model that keeps what it gave."""

    def __init__(self, model):
        super().__init__()
        self.model, self.outputs = model, []

    def forward(self, inputs):
        assert not self.training
        self.outputs += self.model(inputs)
        return self.outputs[-1:]


def nothing_found(inputs):
    found = Instances((inputs[0]["height"], inputs[0]["width"]))
    found.pred_boxes, found.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    found.pred_classes = torch.zeros(0, dtype=torch.long)
    return [{"instances": found}]


def found(scores, box=BOX):
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor([box] * len(scores)).view(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.long)
    return instances


@pytest.mark.parametrize(
    "task", ["coco_fpn", "keypoints_fpn", "cityscapes_fpn", "voc_c4", "lvis_fpn"]
)
def test_the_panels_are_detectron2s_of_ground_truth_and_detections(task, scenes, tmp_path):
    cfg = resolve(TASKS[task].config, SCENES, [*FAST, "MODEL.DEVICE", "cpu"])
    assert cfg.SOLVER.AMP.ENABLED  # under which keypoints come in bf16, which numpy lacks
    torch.manual_seed(0)
    model = Recorded(Run(cfg, InterruptFlag()).steady)
    assert visualize(cfg, model, 3, tmp_path) == 3
    assert model.training  # as before

    name = cfg.DATASETS.TEST[0]
    kinds = {"segmentation": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
    drawn = []
    for record, output in zip(DatasetCatalog.get(name), model.outputs, strict=True):
        file = str(record["image_id"]).removesuffix(".png") + ".png"
        ((left, right),) = panels(Image.open(tmp_path / file))
        image = read_image(record["file_name"], format="RGB")
        for annotation in record["annotations"]:
            for kind, predicted in kinds.items():
                assert kind in annotation or not predicted
                if not predicted:
                    annotation.pop(kind, None)
        shown = in_float32(output["instances"])
        if len(shown):  # from 0.5 on, or else the best
            shown = shown[shown.scores >= min(0.5, shown.scores.max())]
        visualizers = [Visualizer(image, MetadataCatalog.get(name)) for _ in range(2)]
        with seeded(0):
            expected = visualizers[0].draw_dataset_dict(record).get_image()
            np.testing.assert_array_equal(left, expected)
            expected = visualizers[1].draw_instance_predictions(shown).get_image()
            np.testing.assert_array_equal(right, expected)
        drawn.append([(side != image).any() for side in (left, right)])
    assert np.any(drawn, axis=0).all()


@pytest.mark.parametrize("count", [2, 9])
def test_the_images_are_evenly_spaced(count, scenes, tmp_path):
    cfg = resolve(TASKS["coco_fpn"].config, SCENES, FAST)
    written = visualize(cfg, Recorded(nothing_found), count, tmp_path / "new" / "folder")
    ids = [record["image_id"] for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])]
    expected = ids[:count]
    assert written == len(expected)
    files = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert files == {f"{number}.png" for number in expected}


def test_weak_detections_are_left_out_but_the_best():
    for scores, kept in (([0.6, 0.49, 0.5], [0.6, 0.5]), ([0.031, 0.2, 0.1], [0.2]), ([], [])):
        assert choose(found(scores)).scores.tolist() == pytest.approx(kept)


def test_a_small_image_is_enlarged_and_without_annotations_shown_as_it_is(tmp_path):
    """In its own colours, also where the model reads BGR."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    cfg = resolve(TASKS["coco_fpn"].config, overrides=["INPUT.FORMAT", "BGR"])
    nothing = nothing_found([{"height": 32, "width": 64}])[0]["instances"]
    scale = PANEL_SIZE // 64
    enlarged = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = draw(cfg, {"file_name": str(tmp_path / "small.png")}, nothing, PERSON)
    for panel in panels(picture)[0]:
        np.testing.assert_array_equal(panel, enlarged)


def test_annotations_that_lack_a_mask_or_keypoints_are_drawn_with_those_that_do_not(photo):
    cfg = resolve(TASKS["keypoints_fpn"].config)
    cfg.MODEL.MASK_ON = True
    common = {"bbox": [100, 100, 100, 100], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    square = [100, 100, 200, 100, 200, 200, 100, 200]
    whole = {**common, "segmentation": [square], "keypoints": [150, 150, 2] * 17}
    record = {"file_name": str(photo), "annotations": [common, whole, {**common, "keypoints": []}]}
    ((left, _),) = panels(draw(cfg, record, found([]), PERSON))
    assert left[150, 150].tolist() == [255, 0, 0]
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    assert ground_truth(cfg, record)["annotations"] == [common] * 3


# ---------------------------------------------------------------------------------------------
# DensePose


@pytest.fixture
def densepose():
    cfg = resolve(TASKS["keypoints_fpn"].config)
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.DENSEPOSE_ON = False, True
    return cfg


def charts(count):
    """Outputs for ``count`` boxes: 24 charts in 6 rows of 4, each with its own U and V."""
    grid = torch.arange(1, 25).view(6, 4).repeat_interleave(4, 0).repeat_interleave(6, 1)
    fine = 9.0 * nn.functional.one_hot(grid, 25).permute(2, 0, 1)
    coarse = torch.stack([torch.zeros(24, 24), torch.ones(24, 24)])
    coarse[:, :, -6:] = coarse[:, :, -6:].flip(0)  # nobody in the last column
    u = torch.linspace(-0.1, 1.1, 25)[:, None, None].expand(25, 24, 24)
    return ChartOutputs(*(each[None].repeat(count, 1, 1, 1) for each in (coarse, fine, u, u**2)))


def test_pixels_have_the_colour_of_their_chart_and_of_their_coordinates(densepose, photo):
    instances = found([0.9])
    instances.pred_densepose = charts(1)
    rows = panels(draw(densepose, {"file_name": str(photo)}, instances, PERSON), rows=3)
    labels, (u, v) = labels_and_uv(instances.pred_densepose[0], instances.pred_boxes.tensor[0])
    assert set(labels.unique().tolist()) == set(range(25)) - set(range(4, 25, 4))
    image = np.asarray(Image.open(photo)).astype(float)
    gray = image.mean(axis=2, keepdims=True).round().repeat(3, axis=2)
    # Below the label's text and within the box's line.
    x0, y0, x1, y1 = (int(side) for side in BOX)
    inside = np.s_[y0 + 30 : y1 - 8, x0 + 8 : x1 - 8]
    below = np.s_[30:-8, 8:-8]
    values = [CHART_COLORS[labels], ORDERED(u.numpy())[..., :3], ORDERED(v.numpy())[..., :3]]
    for (left, right), colors in zip(rows, values, strict=True):
        np.testing.assert_array_equal(left, gray)  # there is no ground truth
        person = labels[below].numpy() > 0
        expected = np.where(person[..., None], (255 * colors[below]).round(), gray[inside])
        np.testing.assert_array_equal(right[inside], expected)
        np.testing.assert_array_equal(right[:, x1 + 8 :], gray[:, x1 + 8 :])


def test_annotated_points_have_the_colours_of_the_pixels(densepose, photo):
    left, top, right, bottom = BOX
    x, y = np.array([150.5, 200.5, 250.5]), np.array([150.5, 160.5, 170.5])
    i, u, v = np.array([0, 3, 24]), np.array([0.2, 0.1, 0.9]), np.array([0.2, 0.7, 0.3])
    person = {
        "bbox": [left, top, right - left, bottom - top],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "dp_x": ((x - left) * 256 / (right - left)).tolist(),
        "dp_y": ((y - top) * 256 / (bottom - top)).tolist(),
        "dp_I": i.astype(float).tolist(),
        "dp_U": u.tolist(),
        "dp_V": v.tolist(),
    }
    unannotated = {key: person[key] for key in ("bbox", "bbox_mode", "category_id")}
    record = {"file_name": str(photo), "annotations": [unannotated, person]}
    picture = draw(densepose, record, found([]), PERSON)  # without pred_densepose, as may be
    for (shown, plain), paint in zip(panels(picture, rows=3), PAINTS, strict=True):
        rows, columns = y.astype(int), x.astype(int)
        assert (shown[rows[0], columns[0]] == plain[rows[0], columns[0]]).all()  # background
        expected = (255 * paint(i, u, v)).round()[1:]
        assert np.abs(shown[rows[1:], columns[1:]] - expected).max() <= 1


# ---------------------------------------------------------------------------------------------
# The command


@pytest.mark.usefixtures("own_log_handlers")
def test_the_command_draws_after_the_evaluation(tmp_path):
    write_coco(tmp_path / "data")
    run, pictures = tmp_path / "run", tmp_path / "pictures"
    words = ["--task", "coco_fpn", "--weights", "random", "--output", str(run)]
    words += ["--overlay", SCENES]
    with data_sets_at(tmp_path / "data"):
        assert main([*words, "--visualize", "1", str(run / "pictures"), *FAST]) == 0
        assert main([*words, "--eval-only", "--visualize", "2", str(pictures), *FAST]) == 0
    assert sorted(path.name for path in pictures.iterdir()) == ["1.png", "2.png"]
    own = run / "pictures" / "1.png"
    assert own.read_bytes() == (pictures / "1.png").read_bytes()
    assert own.stat().st_mtime <= (run / "metrics.json").stat().st_mtime  # which is written last
    assert json.loads((run / "evaluation.json").read_text())["task"] == "coco_fpn"
    assert f"2 pictures in {pictures}\n" in (run / "log.txt").read_text()
