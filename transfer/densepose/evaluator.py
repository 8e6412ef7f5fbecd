"""DensePose's evaluator, from model outputs to GPS AP (Güler et al., 2018)."""

import logging
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from pretrain.runtime import files
from transfer.data.densepose import read
from transfer.densepose import matching, similarity
from transfer.densepose.inference import labels_and_uv, quantize
from transfer.densepose.surface import Surface

logger = logging.getLogger(__name__)

PREDICTIONS = "coco_densepose_predictions.pth"


class DensePoseEvaluator(DatasetEvaluator):
    """AP of GPS, GPSm and mask IoU of the 20 best detections of an image, over any processes.

    An image's detections are compared with its persons when it was predicted, so that no map is
    kept: only with ``output_dir``, which gets these as ``coco_densepose_predictions.pth``.
    Raises DataError for labels that cannot be used, and for surface files that do not exist or do
    not fit.
    """

    def __init__(
        self,
        dataset_name: str,
        surface_folder: str | Path,
        output_dir: str | Path | None = None,
        min_iou_threshold: float = 0.5,
    ) -> None:
        self._surface = Surface.load(surface_folder)
        self._output = None if output_dir is None else Path(output_dir, PREDICTIONS)
        self._minimum = min_iou_threshold
        metadata = MetadataCatalog.get(dataset_name)
        truth = read(dataset_name).content
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        self._people: dict[int, list[similarity.Person]] = defaultdict(list)
        for person in truth["annotations"]:
            if person["category_id"] in metadata.thing_dataset_id_to_contiguous_id:
                self._people[person["image_id"]].append(person)

    def reset(self) -> None:
        """Forget the predictions."""
        self._found: dict[int, tuple[matching.Image, list[dict[str, Any]]]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """inputs: with ``image_id``; outputs: with ``instances``, skipped without DensePose."""
        for image, output in zip(inputs, outputs, strict=True):
            found, image_id = output["instances"], image["image_id"]
            if not found.has("pred_densepose"):
                continue
            best = found.scores.argsort(descending=True, stable=True)[: matching.MAX_DETECTIONS]
            found = found[best]
            corners = found.pred_boxes.tensor.cpu().float()
            boxes = BoxMode.convert(corners, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).double().numpy()
            maps = [
                quantize(*labels_and_uv(found.pred_densepose[row], box)).cpu().numpy()
                for row, box in enumerate(corners)
            ]
            scores, records = found.scores.cpu().double().numpy(), []
            if self._output is not None:
                records = [
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box.tolist(),
                        "score": score,
                        "densepose": torch.from_numpy(chart_map),
                        "segmentation": _as_rle(chart_map, box, self._sizes[image_id]),
                    }
                    for category_id, box, score, chart_map in zip(
                        found.pred_classes.tolist(), boxes, scores.tolist(), maps, strict=True
                    )
                ]
            self._found[image_id] = self._compare(image_id, scores, boxes, maps), records

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | dict[str, Any]:
        """Percent by ``densepose_gps``, ``densepose_gpsm``, ``densepose_segm``; see ``summarize``.

        Nothing on ranks other than 0.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        found = {image_id: own for part in gathered for image_id, own in part.items()}
        if self._output is not None:
            records = [one for image_id in sorted(found) for one in found[image_id][1]]
            files.write_torch(self._output, records)
        # An image that was not predicted counts with its persons.
        silent = np.zeros(0), np.zeros((0, 4)), []
        images = [
            found[image_id][0] if image_id in found else self._compare(image_id, *silent)
            for image_id in sorted(self._sizes)
        ]
        results = matching.summarize(images, self._minimum)
        for measure, numbers in results.items():
            logger.info("Results for %s:\n%s", measure, create_small_table(numbers))
        return results

    def _compare(
        self, image_id: int, scores: np.ndarray, boxes: np.ndarray, maps: list[np.ndarray]
    ) -> matching.Image:
        """scores: (D,) float64, falling; boxes: (D, 4) float64; maps: (3, h, w) uint8 each."""
        people = self._people[image_id]
        return matching.Image(
            scores=scores,
            sizes=boxes[:, 2] * boxes[:, 3],
            areas=np.array([person["area"] for person in people], dtype=np.float64),
            annotated=np.array([similarity.is_annotated(p) for p in people], dtype=bool),
            crowds=np.array([person.get("iscrowd", 0) for person in people], dtype=bool),
            gps=similarity.point_similarity(self._surface, boxes, maps, people),
            mask_iou=similarity.mask_iou(boxes, maps, people, self._sizes[image_id]),
            box_iou=similarity.box_iou(boxes, people),
        )


def _as_rle(chart_map: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """The mask's run lengths with text, as JSON wants them; empty for a box below a pixel."""
    mask = chart_map[0, : int(box[3]), : int(box[2])] > 0
    rle = similarity.encode_mask(mask, box, size)
    return {"size": rle["size"], "counts": rle["counts"].decode()}
