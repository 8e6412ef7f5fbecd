"""What labels say of the student's encoder: nearest neighbours, and a linear probe of its cells.

Nothing is learnt from them but the probe. BN statistics are those of the labelled images, since the
student's running ones blend global and local crops (clove.md section 5).
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pretrain.clove import CLoVE
from pretrain.data.folder import DataError, decode, list_images
from pretrain.monitors import statistics_of
from pretrain.photometry import normalize

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of kNN, as arXiv 1805.01978 has them but for fewer neighbours
RIDGE = 1e-3  # of the probe's weights, relative to the features' variance
IGNORED = 255  # in label maps
BATCH, STATISTICS_IMAGES = 64, 128


class Labels:
    """Labelled images below a folder, at the side of the global crops; half of them test.

    ``<class>/<image>`` below ``root/classes``, for kNN. ``root/images/<name>.<any>`` with
    ``root/labels/<name>.png``, a map of class numbers where 255 is ignored, for the linear probe.
    Either may be absent. Raises DataError where both are, and for files that do not fit together.
    """

    def __init__(self, root: str | Path, size: int) -> None:
        root = Path(root)
        self.classes = self.maps = None
        if (folder := root / "classes").is_dir():
            names = list_images(folder)
            kinds = sorted({name.split("/")[0] for name in names})
            of = torch.tensor([kinds.index(name.split("/")[0]) for name in names])
            self.classes = torch.stack([_read(folder / name, size) for name in names]), of
        if (folder := root / "images").is_dir():
            names = list_images(folder)
            paths = [root / "labels" / Path(name).with_suffix(".png") for name in names]
            images = torch.stack([_read(folder / name, size) for name in names])
            self.maps = images, torch.stack([_read_map(path, size) for path in paths])
        if self.classes is None and self.maps is None:
            raise DataError(
                f"{root}: has neither classes/<class>/<image> nor images/ with labels/<name>.png; "
                "write them, or leave MONITOR.LABELS empty"
            )


def measure(model: CLoVE, labels: Labels, device: torch.device) -> dict[str, float]:
    """``knn_accuracy`` of images and ``probe_accuracy`` of cells, on the half that tests."""
    values = {}
    if labels.classes is not None:
        images, of = labels.classes
        features = encode(model, images, device).mean(dim=(2, 3))  # (N,C)
        values["knn_accuracy"] = knn_accuracy(features[::2], of[::2], features[1::2], of[1::2])
    if labels.maps is not None:
        images, of = labels.maps
        maps = encode(model, images, device)  # (N,C,H,W)
        # The class at the centre of every cell
        of = F.interpolate(of[:, None].float(), maps.shape[2:], mode="nearest-exact")[:, 0].long()
        halves = []
        for half in (slice(0, None, 2), slice(1, None, 2)):
            chosen = of[half].flatten() != IGNORED
            cells = maps[half].movedim(1, -1).flatten(0, 2)  # (N·H·W,C)
            halves += [cells[chosen], of[half].flatten()[chosen]]
        values["probe_accuracy"] = probe_accuracy(*halves)
    return values


@torch.no_grad()
def encode(model: CLoVE, images: Tensor, device: torch.device) -> Tensor:
    """C5 of the student's encoder for uint8 images (N,3,S,S): float32 (N,C,H,W) on the CPU."""

    def on_device(some: Tensor) -> Tensor:
        return normalize(some.to(device) / 255)

    with statistics_of(model, on_device(images[:STATISTICS_IMAGES])):
        parts = [model.student.encoder(on_device(some)) for some in images.split(BATCH)]
    return torch.cat([part.float().cpu() for part in parts])


def knn_accuracy(features: Tensor, labels: Tensor, queries: Tensor, expected: Tensor) -> float:
    """Share of ``queries`` (M,C) whose nearest ``features`` (N,C) vote for the expected class.

    A vote weighs exp(cosine / TEMPERATURE). Classes are int64, (N,) and (M,).
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(features, dim=1).T
    cosines, nearest = cosines.topk(min(NEIGHBOURS, len(features)))
    votes = torch.zeros(len(queries), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], torch.exp(cosines / TEMPERATURE))
    return (votes.argmax(dim=1) == expected).float().mean().item()


def probe_accuracy(cells: Tensor, labels: Tensor, queries: Tensor, expected: Tensor) -> float:
    """Share of right classes, in the mean over the classes of ``expected``, of a linear probe.

    The probe is a ridge regression from ``cells`` (N,C) to their classes as one-hot vectors.
    """
    mean, std = cells.double().mean(dim=0), cells.double().std(dim=0) + 1e-6
    inputs, queries = (cells - mean) / std, (queries - mean) / std
    targets = F.one_hot(labels).double()
    offset = targets.mean(dim=0)
    covariance = inputs.T @ inputs / len(inputs)
    covariance.diagonal().add_(RIDGE)
    weights = torch.linalg.solve(covariance, inputs.T @ (targets - offset) / len(inputs))
    right = (queries @ weights + offset).argmax(dim=1) == expected
    present = expected.unique()
    return torch.stack([right[expected == one].float().mean() for one in present]).mean().item()


def _read(path: Path, size: int) -> Tensor:
    """RGB uint8 (3,size,size), whatever the image's own shape."""
    try:
        image = decode(path.read_bytes())
    except Exception as error:  # decoders raise errors of any type at damaged files
        raise DataError(f"{path}: cannot be read; remove it from MONITOR.LABELS") from error
    return F.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]


def _read_map(path: Path, size: int) -> Tensor:
    """Class numbers uint8 (size,size) of a PNG with one channel, or of a palette's indices."""
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                raise DataError(f"{path}: is {file.mode}, not a map of class numbers (L or P)")
            labels = np.array(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); every image needs its map") from error
    return torch.from_numpy(cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST))
