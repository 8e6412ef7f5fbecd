"""What labels say of the exported encoder: nearest neighbours, and a linear probe of its cells.

Nothing is learnt from them but the probe. BN statistics are those of the labelled images.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pretrain.data.folder import DataError, list_images
from pretrain.data.multicrop import decode
from pretrain.monitor.measures import encoder_of, settled
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
            names = [name for name in list_images(folder) if "/" in name]
            kinds = sorted({name.split("/")[0] for name in names})
            of = torch.tensor([kinds.index(name.split("/")[0]) for name in names])
            self.classes = torch.stack([_resized(_read(folder / n), size) for n in names]), of
        if (folder := root / "images").is_dir():
            names = list_images(folder)
            of = [root / "labels" / Path(name).with_suffix(".png") for name in names]
            pairs = [_read_pair(folder / n, o, size) for n, o in zip(names, of, strict=True)]
            self.maps = tuple(torch.stack(each) for each in zip(*pairs, strict=True))
        if self.classes is None and self.maps is None:
            raise DataError(
                f"{root}: has neither classes/<class>/<image> nor images/ with labels/<name>.png; "
                "write them, or leave MONITOR.LABELS empty"
            )


@torch.no_grad()
def measure(model: nn.Module, labels: Labels, device: torch.device) -> dict[str, float]:
    """``knn_accuracy`` of images and ``probe_accuracy`` of cells, on the half that tests.

    Under SyncBN every rank must call it.
    """
    values = {}
    if labels.classes:
        images, of = labels.classes
        values["knn_accuracy"] = of_images(_c5(model, images, device), of)
    if labels.maps:
        images, of = labels.maps
        values["probe_accuracy"] = of_cells(_c5(model, images, device), of)
    return values


def _c5(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """The encoder's maps (N,C,H,W) of images (N,3,S,S) uint8, on the CPU."""
    # From all classes: the list is sorted by them
    some = torch.linspace(0, len(images) - 1, min(STATISTICS_IMAGES, len(images))).long()
    encoder = encoder_of(settled(model, normalize(images[some].to(device) / 255)))
    batches = (normalize(each.to(device) / 255) for each in images.split(BATCH))
    return torch.cat([encoder(batch).float().cpu() for batch in batches])


def of_images(maps: Tensor, labels: Tensor) -> float:
    """kNN of the means of maps (N,C,H,W), whose classes are (N,)."""
    features = maps.mean(dim=(2, 3))
    return knn_accuracy(features[::2], labels[::2], features[1::2], labels[1::2])


def of_cells(maps: Tensor, labels: Tensor) -> float:
    """The linear probe of maps (N,C,H,W); of label maps (N,S,S), a cell has its centre's class."""
    labels = F.interpolate(labels[:, None].float(), maps.shape[2:], mode="nearest-exact")[:, 0]
    both = maps.movedim(1, -1), labels.long()  # (N,H,W,C), (N,H,W)
    known = labels != IGNORED
    first, second = slice(0, None, 2), slice(1, None, 2)
    return probe_accuracy(*(each[half][known[half]] for half in (first, second) for each in both))


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


def _read(path: Path) -> Tensor:
    """RGB uint8 (3,H,W)."""
    try:
        return decode(path.read_bytes())
    except Exception as error:  # decoders raise errors of any type at damaged files
        raise DataError(f"{path}: cannot be read; remove it from MONITOR.LABELS") from error


def _resized(image: Tensor, size: int) -> Tensor:
    """(3,size,size), whatever the image's own shape."""
    return F.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]


def _read_pair(path: Path, of: Path, size: int) -> tuple[Tensor, Tensor]:
    """An image (3,size,size) and its class numbers (size,size), uint8.

    The latter from a PNG with one channel, or from a palette's indices.
    """
    image = _read(path)
    try:
        with Image.open(of) as file:
            labels = np.array(file)
    except OSError as error:
        raise DataError(f"{of}: cannot be read ({error}); every image needs its map") from error
    if labels.shape != image.shape[1:]:
        raise DataError(f"{of}: is no map of class numbers of its image's size (one channel)")
    labels = cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST)
    return _resized(image, size), torch.from_numpy(labels)
