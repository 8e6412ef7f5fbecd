"""Golden files, and what the tests of DensePose are made with: proposals, surfaces, data sets."""

import json
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from scipy.io import savemat

from tests.transfer.data.tiny_layouts import write_image, write_json
from transfer.data.densepose import SPLITS, register
from transfer.data.layout import data_root
from transfer.densepose.annotations import Annotation, Annotations
from transfer.densepose.chart import ChartOutputs
from transfer.densepose.surface import Surface

GOLDEN = Path(__file__).parents[2] / "golden"
MAPS = ("coarse_segm", "fine_segm", "u", "v")
POINTS = ("x", "y", "i", "u", "v")
SIZE = (200, 300)  # of an image, which nothing depends on
MINIVAL = "densepose_coco_2014_minival"


def load(name):
    """The arrays of a golden file, as a dict."""
    return dict(np.load(GOLDEN / f"densepose_{name}.npz"))


def load_json(name):
    return json.loads((GOLDEN / f"densepose_{name}.json").read_text())


def annotation(points, segm=None):
    """points: x, y, I, U, V, each (K,)."""
    x, y, i, u, v = (torch.as_tensor(values, dtype=torch.float32) for values in points)
    segm = None if segm is None else torch.as_tensor(segm, dtype=torch.float32)
    return Annotation(x=x, y=y, i=i, u=u, v=v, segm=segm)


def annotations_of(golden, prefix=""):
    """One entry per box of a golden file, None for persons without DensePose."""
    entries = []
    ends = golden[f"{prefix}point_offsets"]
    masks = golden.get(f"{prefix}segm", np.zeros((len(ends), 256, 256)))  # absent: all zero
    for box, (first, end) in enumerate(pairwise(ends)):
        points = [golden[f"{prefix}dp_{name}"][first:end] for name in "xyIUV"]
        segm = masks[box] if golden[f"{prefix}has_segm"][box] else None
        entries.append(annotation(points, segm) if golden[f"{prefix}kind"][box] else None)
    return entries


def proposals_of(golden, prefix=""):
    """The boxes of a golden file as kept proposals, one Instances per image."""
    entries, images = annotations_of(golden, prefix), []
    for image, has_field in enumerate(golden[f"{prefix}image_has_densepose_field"]):
        chosen = np.flatnonzero(golden[f"{prefix}image_index"] == image)
        boxes = [golden[f"{prefix}{kind}_boxes"][chosen] for kind in ("proposal", "gt")]
        images.append(proposals(*boxes, [entries[n] for n in chosen] if has_field else None))
    return images


def proposals(proposal_boxes, gt_boxes, entries=None, gt_classes=None):
    """One image's; boxes (n, 4) x0, y0, x1, y1; no field for DensePose without ``entries``."""
    image = Instances(SIZE)
    image.proposal_boxes = Boxes(torch.as_tensor(proposal_boxes).reshape(-1, 4))
    image.gt_boxes = Boxes(torch.as_tensor(gt_boxes).reshape(-1, 4))
    classes = torch.zeros(len(image.gt_boxes)) if gt_classes is None else gt_classes
    image.gt_classes = torch.as_tensor(classes).long()
    if entries is not None:
        image.gt_densepose = Annotations(entries)
    return image


def random_proposals(seed, kinds, points=20):
    """One image per list of ``kinds``: for each box 0 None, 1 annotated, 2 no points, 3 no masks.

    Proposals cover their persons' boxes in part; points lie anywhere in these.
    """
    rng = np.random.default_rng(seed)
    images = []
    for image_kinds in kinds:
        corner = rng.uniform(0, 60, (len(image_kinds), 2))
        truth = np.concatenate([corner, corner + rng.uniform(40, 90, corner.shape)], 1)
        proposal = truth + rng.uniform(-8, 8, truth.shape)
        entries = []
        for kind in image_kinds:
            count = 0 if kind == 2 else points
            values = [rng.uniform(0, 256, count), rng.uniform(0, 256, count)]
            values += [rng.integers(0, 25, count), rng.random(count), rng.random(count)]
            segm = None if kind == 3 else rng.integers(0, 15, (8, 8)).repeat(32, 0).repeat(32, 1)
            entries.append(annotation(values, segm) if kind else None)
        boxes = [box.astype(np.float32) for box in (proposal, truth)]
        images.append(proposals(*boxes, entries if any(image_kinds) else None))
    return images


def random_outputs(seed, boxes, coarse_channels=2, side=6, dtype=torch.float64):
    """Maps for so many boxes, which require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return ChartOutputs(
        *(
            torch.randn(
                boxes, channels, side, side, dtype=dtype, generator=generator, requires_grad=True
            )
            for channels in (coarse_channels, 25, 25, 25)
        )
    )


def write_surface(folder, mesh, prefix=""):
    """Write the files of a golden mesh: columns, and the types that the published ones have."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: mesh[f"{prefix}{name}"][:, None] for name in ("U_subdiv", "V_subdiv")}
    charts = mesh[f"{prefix}Part_ID_subdiv"].astype(np.uint8)[:, None]
    savemat(folder / "SMPL_subdiv.mat", columns | {"Part_ID_subdiv": charts})
    index = mesh[f"{prefix}index"].astype(np.uint32)[:, None]
    savemat(folder / "SMPL_SUBDIV_TRANSFORM.mat", {"index": index})
    np.save(folder / "Pdist_matrix.npy", mesh[f"{prefix}Pdist_matrix"].ravel())
    return folder


def as_surface(mesh, prefix=""):
    """A golden mesh, without files."""
    return Surface(
        uv=np.stack([mesh[f"{prefix}U_subdiv"], mesh[f"{prefix}V_subdiv"]], axis=1),
        charts=mesh[f"{prefix}Part_ID_subdiv"],
        vertices=mesh[f"{prefix}index"] - 1,
        packed=mesh[f"{prefix}Pdist_matrix"].ravel(),
    )


def write_table(file, **changes):
    """The golden table as the published file has it: two variables of 24 cells."""
    golden = load("flip")
    content = {}
    for letter in "UV":
        cells = np.empty((1, 24), dtype=object)
        for chart in range(24):
            cells[0, chart] = golden[f"lut_{letter.lower()}_q"][chart] / 255.0
        content[f"{letter}_transforms"] = cells
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, content | changes)
    return file


def runs(mask):
    """A mask as the JSON files have it."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded | {"counts": encoded["counts"].decode()}


def person(number, image=1, points=3, **changes):
    """An annotated person; ``points`` 0 for one that is not."""
    annotation = {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [10, 10, 20, 16],
        "area": 320,
        "iscrowd": 0,
        "segmentation": [[10, 10, 30, 10, 30, 26, 10, 26]],
    }
    if points:
        torso = np.zeros((256, 256))
        torso[50:200, 20:90] = 1
        annotation |= {
            "dp_x": [10.5, 200.0, 256.0][:points],
            "dp_y": [0.0, 30.25, 99.0][:points],
            "dp_I": [1.0, 24.0, 7.0][:points],
            "dp_U": [0.0, 0.5, 1.0][:points],
            "dp_V": [0.25, 1.0, 0.0][:points],
            "dp_masks": [runs(torso), *([] for _ in range(13))],
        }
    return annotation | changes


def write_data(root, name, annotations, images=2):
    """A split's JSON file and its images, 48 x 32 pixels, ids 1, 2, ..."""
    file, folder = SPLITS[name]
    listed = [
        {"id": n, "file_name": f"{n}.jpg", "width": 48, "height": 32} for n in range(1, images + 1)
    ]
    for image in listed:
        write_image(root / "coco" / folder / image["file_name"])
    categories = [{"id": 1, "name": "person"}]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    write_json(root / "coco" / "annotations" / file, content)


@contextmanager
def registered_at(root):
    """The four data sets read below ``root`` instead of where they did."""
    _register_again(root)
    try:
        yield
    finally:
        _register_again(data_root())


def _register_again(root):
    for name in SPLITS:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    register(root)
