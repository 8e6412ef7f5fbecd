"""Cityscapes' metric of instance segmentation, scored by Cityscapes' own scripts.

What the scripts compute from files, they keep in module globals and write beside them: the overlaps
of predicted masks and labelled instances. Here each image's are computed when it was predicted, so
that no mask is kept, and the scripts get them in their own format.
"""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
from cityscapesscripts.helpers.labels import id2label, labels
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from PIL import Image

logger = logging.getLogger(__name__)

CLASSES = [label.name for label in labels if label.hasInstances and not label.ignoreInEval]
VOID = {label.id for label in labels if label.ignoreInEval}
OVERLAPS = np.arange(0.5, 1.0, 0.05)
# What `evaluateMatches` and `computeAverages` read: the scripts' defaults.
SETTINGS = {
    "minRegionSizes": np.array([100]),  # pixels
    "distanceThs": np.array([np.inf]),
    "distanceConfs": np.array([-np.inf]),
    "distanceAvailable": False,
}
NO_DISTANCE = {"medDist": -1, "distConf": 0.0}
INSTANCES = "_gtFine_instanceIds.png"

Matches = dict[str, dict[str, list[dict[str, Any]]]]


class CityscapesEvaluator(DatasetEvaluator):
    """AP and AP50 of masks, over any number of processes and machines; writes no file."""

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._classes = metadata.thing_classes
        files = sorted(Path(metadata.gt_dir).glob(f"*/*{INSTANCES}"))
        self._files = {file.name.removesuffix(INSTANCES): file for file in files}

    def reset(self) -> None:
        """Forget the predictions."""
        self._matches: dict[str, Matches] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """inputs: with ``file_name``, of an image; outputs: with ``instances``, their masks too."""
        for image, output in zip(inputs, outputs, strict=True):
            stem = Path(image["file_name"]).name.removesuffix("_leftImg8bit.png")
            truth = np.array(Image.open(self._files[stem]))
            self._matches[stem] = match(truth, output["instances"].to("cpu"), self._classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"segm": {"AP", "AP50"}}`` in percent; None on ranks other than 0."""
        gathered = comm.gather(self._matches, dst=0)
        if not comm.is_main_process():
            return None
        matches = {stem: found for part in gathered for stem, found in part.items()}
        assert matches.keys() == self._files.keys(), "Cityscapes' metric is of all images"
        ap = np.stack([[_ap(matches, name, overlap) for overlap in OVERLAPS] for name in CLASSES])
        settings = SimpleNamespace(**SETTINGS, overlaps=OVERLAPS, instLabels=CLASSES)
        averages = scripts.computeAverages(ap[None], settings)
        found = {"AP": 100 * averages["allAp"], "AP50": 100 * averages["allAp50%"]}
        logger.info("Results for segm:\n%s", create_small_table(found))
        return {"segm": found}


def match(truth: np.ndarray, found: Instances, classes: list[str]) -> Matches:
    """The overlaps of an image's predictions and instances, as the scripts' ``assignGt2Preds``.

    truth: (H, W) as in ``instanceIds.png``; found: its ``pred_masks`` are (N, H, W).
    """
    values, sizes = np.unique(truth, return_counts=True)
    objects = {name: [] for name in CLASSES}
    for value, size in zip(values.tolist(), sizes.tolist(), strict=True):
        label = id2label[value // 1000 if value >= 1000 else value].name
        if label in objects:
            instance = {"instID": value, "pixelCount": size, "matchedPred": []}
            objects[label].append(instance | NO_DISTANCE)
    void = [value for value in values if value in VOID]
    predictions = {name: [] for name in CLASSES}
    masks, scores = found.pred_masks.bool().numpy(), found.scores.tolist()
    for mask, score, index in zip(masks, scores, found.pred_classes.tolist(), strict=True):
        inside = np.bincount(truth[mask], minlength=values[-1] + 1)  # pixels of each value
        prediction = {"pixelCount": int(inside.sum()), "confidence": score}
        if prediction["pixelCount"] == 0:
            continue
        overlapped = []
        for thing in objects[classes[index]]:
            intersection = {"intersection": int(inside[thing["instID"]])}
            if intersection["intersection"] > 0:
                thing["matchedPred"].append(prediction | intersection)
                overlapped.append(thing | intersection)
        predictions[classes[index]].append(
            prediction | {"voidIntersection": int(inside[void].sum()), "matchedGt": overlapped}
        )
    return {"groundTruth": objects, "prediction": predictions}


def _ap(matches: dict[str, Matches], name: str, overlap: float) -> float:
    """AP of one class at one overlap; NaN where no image has an instance of it."""
    settings = SimpleNamespace(**SETTINGS, overlaps=[overlap], instLabels=[name])
    try:
        return scripts.evaluateMatches(matches, settings).item()
    except IndexError:
        # It wants the last of no scores: nothing is matched, and all that was predicted lies on
        # what does not count.
        return 0.0
