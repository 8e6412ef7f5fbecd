import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from scipy.io import loadmat

from benchmarks.scenes import coco, densepose, surface
from benchmarks.scenes.people import KEYPOINTS
from benchmarks.scenes.scene import CLASSES, make_scene
from tests.benchmarks.scenes.drawn import SPLITS, drawn, read_json, without
from transfer.densepose import matching, similarity
from transfer.densepose.surface import Surface

SETS = ("train", "valminusminival", "minival")
PARTS = {chart: part for part, charts in surface.CHARTS.items() for chart in charts}
# Of DensePose's 24 charts, by part: which of its 14 coarse parts they belong to.
COARSE = [0, 1, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 14]


@pytest.fixture(scope="module")
def body(out):
    return Surface.load(out / "densepose")


@pytest.fixture(scope="module")
def labels(out):
    return {name: read(out, name) for name in SETS}


@pytest.fixture(scope="module")
def people(labels, scenes):
    """(label, the person that was drawn) of all, crowds included."""
    by_id = {
        100 * coco.image_id(split, index) + number: instance
        for split, index, scene in drawn(scenes)
        for number, instance in enumerate(scene.instances)
    }
    return [(a, by_id[a["id"]]) for own in labels.values() for a in own["annotations"]]


def read(out, name):
    return read_json(out, f"densepose_{name}2014")


def metres(body, a, b):
    """Distances between points (charts, U, V) of the surface."""
    return body.distances(*(body.nearest(*(values.ravel() for values in one)) for one in (a, b)))


def square(body):
    """All distances, (M, M)."""
    every = np.arange(body.vertices.max() + 1)
    return body.distances(every[:, None], every[None])


def test_surface_has_shuffled_charts_with_seams(body):
    assert set(Counter(body.charts)) == set(range(1, 25))
    assert min(Counter(body.charts).values()) >= 25
    assert (np.diff(body.charts) < 0).sum() > 100
    assert body.uv.min() == 0
    assert body.uv.max() == 1
    count = body.vertices.max() + 1
    assert 300 <= count <= 500
    assert set(body.vertices) == set(range(count))
    assert (np.diff(body.vertices) < 0).any()
    shared = {v: set(body.charts[body.vertices == v]) for v in body.vertices}
    assert {frozenset(charts) for charts in shared.values()} >= {
        frozenset((1, 2)),
        frozenset((9, 7)),
    }


def test_surface_files_have_the_published_types(out):
    folder = out / "densepose"
    vertices = loadmat(folder / "SMPL_subdiv.mat")
    index = loadmat(folder / "SMPL_SUBDIV_TRANSFORM.mat")["index"]
    for name in ("U_subdiv", "V_subdiv", "Part_ID_subdiv"):
        assert vertices[name].shape == index.shape == (index.size, 1)
    assert index.dtype == np.uint32
    assert index.min() == 1
    assert vertices["Part_ID_subdiv"].dtype == np.uint8
    packed = np.load(folder / "Pdist_matrix.npy")
    content = (folder / "Pdist_matrix.pkl").read_bytes()
    assert content[:2] == b"\x80\x02"
    published = pickle.loads(content, encoding="latin1")["Pdist_matrix"]
    assert published.dtype == packed.dtype == np.float32
    assert published.shape == (packed.size, 1)
    assert np.array_equal(published[:, 0], packed)
    assert index.max() * (index.max() - 1) // 2 == packed.size
    assert vertices["__header__"] == b"MATLAB 5.0 MAT-file, drawn scenes"  # and no date


def test_distances_are_a_metric_in_metres(body):
    distances = square(body)
    assert np.array_equal(distances, distances.T)
    assert np.isfinite(distances).all()
    for way in range(0, len(distances), 7):
        assert (distances <= distances[:, way, None] + distances[way] + 1e-6).all()
    apart = distances + np.where(np.eye(len(distances)), np.inf, 0)
    assert apart.min() > 0
    assert 0.01 < np.median(apart.min(axis=1)) < 0.06
    crown, toes = (body.vertices[body.charts == chart] for chart in (23, 6))
    assert 1.6 < distances[np.ix_(crown, toes)].max() < 2.2


def test_flip_table_is_the_mirror_of_the_surface(out, body):
    tables = loadmat(out / "densepose" / "UV_symmetry_transforms.mat")
    u_table, v_table = (np.stack(list(tables[f"{n}_transforms"][0])) for n in "UV")
    assert u_table.shape == v_table.shape == (24, 256, 256)
    column, row = (body.uv.T.astype(np.float32) * 255).astype(int)
    where = body.charts - 1, row, column
    opposite = surface.MIRRORED[body.charts]
    names = [PARTS[c].replace("left", "no").replace("right", "left") for c in body.charts]
    names = [name.replace("no", "right") for name in names]
    assert [PARTS[chart] for chart in opposite if chart < 23] == [n for n in names if n != "head"]
    mirrored = body.nearest(opposite, u_table[where], v_table[where])
    to = np.empty(body.vertices.max() + 1, dtype=int)
    to[body.vertices] = mirrored
    assert np.array_equal(to[body.vertices], mirrored)  # also along seams
    assert np.array_equal(to[to], np.arange(len(to)))
    distances = square(body)
    assert abs(distances[np.ix_(to, to)] - distances).max() < 1e-6
    # Somewhere each coordinate changes, and U depends on V: rows and columns cannot be confused.
    assert abs(u_table[6] - u_table[6].T).max() == 1


def test_sets_share_out_the_images_under_the_names_of_2014(out, labels):
    counts = {name: len(content["images"]) for name, content in labels.items()}
    assert counts == {"train": 53, "valminusminival": 13, "minival": 44}
    assert read_json(out, "densepose_minival2014_100") == labels["minival"]
    ids = [image["id"] for content in labels.values() for image in content["images"]]
    assert len(set(ids)) == sum(SPLITS.values())
    for name, content in labels.items():
        folder = "train2014" if name == "train" else "val2014"
        for image in content["images"]:
            assert image["file_name"] == f"COCO_{folder}_{image['id']:012d}.jpg"
            split, first = ("val", 1_000_001) if name == "minival" else ("train", 1)
            original = out / coco.image_path(split, image["id"] - first)
            assert (
                out / "coco" / folder / image["file_name"]
            ).read_bytes() == original.read_bytes()


def test_people_are_those_of_the_keypoints(out, labels):
    keypoints = [read_json(out, f"person_keypoints_{split}2017") for split in SPLITS]
    expected, found = (
        {label["id"]: without(label, *own) for content in of for label in content["annotations"]}
        for of, own in ((keypoints, ("keypoints", "num_keypoints")), (labels.values(), ("dp_",)))
    )
    assert found == expected
    for content in labels.values():
        assert content["categories"] == [{"id": 1, "name": "person", "supercategory": "person"}]


def test_points_read_the_charts_of_their_own_pixel(people):
    seen, points = set(), 0
    for label, person in people:
        if "dp_x" not in label:
            continue
        left, top, width, height = label["bbox"]
        maps = densepose.dense_maps(person)
        x, y, i, u, v = (np.array(label[f"dp_{key}"]) for key in "xyIUV")
        assert 10 <= len(x) <= 100
        assert len(set(zip(x, y, strict=True))) == len(x)
        column, row = (x * width / 256 + left).astype(int), (y * height / 256 + top).astype(int)
        for values, own in zip((i, u, v), maps, strict=True):
            assert np.allclose(own[row, column], values, atol=1e-5)
        assert person.mask[row, column].all()
        # Evaluation divides by 255, which is another pixel only at the far side of a large box.
        assert (
            np.mean(column != (x * width / 255 + left).astype(int)) <= max(0, width - 127) / width
        )
        seen.update(i)
        points += len(x)
    assert points > 1000
    assert seen == set(range(1, 25))


def test_charts_cover_the_visible_pixels_and_masks_are_their_coarse_parts(people):
    for label, person in people:
        if not label["iscrowd"]:
            charts, *uv = densepose.dense_maps(person)
            assert np.array_equal(charts > 0, person.mask)
            assert 0 <= np.min(uv) <= np.max(uv) <= 1
        if "dp_masks" not in label:
            continue
        x, y, width, height = (int(value) for value in label["bbox"])
        charts = densepose.dense_maps(person)[0][y : y + height, x : x + width]
        rows, columns = ((np.arange(256) * 2 + 1) * side // 512 for side in (height, width))
        expected = np.array(COARSE)[charts[rows][:, columns]]
        assert len(label["dp_masks"]) == 14
        for part, lengths in enumerate(label["dp_masks"], start=1):
            shown = expected == part
            if not shown.any():
                assert lengths == []
                continue
            assert lengths["size"] == [256, 256]
            assert isinstance(lengths["counts"], str)
            assert np.array_equal(mask_utils.decode(lengths), shown)


@pytest.mark.parametrize("name", ["person", "rider"])
def test_a_mirrored_person_shows_the_other_side_of_the_body(name):
    for k in range(6):
        person = make_scene(1, "train", CLASSES.index(name) + len(CLASSES) * k).instances[0]
        drawn, width = person.drawn, person.mask.shape[1]
        flip = np.diag([-1.0, 1.0])
        other = replace(
            drawn,
            matrix=flip @ drawn.matrix,
            offset=flip @ drawn.offset + (width - 1, 0),
            shown=drawn.shown[:, ::-1],
        )
        mirrored = replace(person, mask=person.mask[:, ::-1], drawn=other)
        expected = surface.mirror(*densepose.dense_maps(person))
        inside = mirrored.mask
        for ours, theirs in zip(densepose.dense_maps(mirrored), expected, strict=True):
            assert np.allclose(ours[inside], theirs[:, ::-1][inside])


@pytest.mark.parametrize("name", ["person", "rider"])
def test_left_and_right_are_those_of_the_joints(name):
    """At a visible joint is one of the parts that meet there, on the joint's side."""
    seen = Counter()
    for k in range(8):
        person = make_scene(2, "train", CLASSES.index(name) + len(CLASSES) * k).instances[0]
        charts = densepose.dense_maps(person)[0]
        far = None
        if person.drawn.figure.view == surface.RIGHT:  # there one limb is behind the other
            far = "right" if np.linalg.det(person.drawn.matrix) < 0 else "left"
        for joint, (x, y) in zip(KEYPOINTS, person.joints, strict=True):
            side, _, what = joint.partition("_")
            met = {"elbow": "arm", "wrist": "hand", "knee": "leg", "ankle": "leg foot"}.get(what)
            row, column = int(y), int(x)
            inside = 0 <= row < charts.shape[0] and 0 <= column < charts.shape[1]
            if side == far or met is None or not inside or not charts[row, column]:
                continue
            part = PARTS[charts[row, column]]
            if part.rpartition("_")[2] in met.split():
                seen[part.startswith(side)] += 1
    assert seen[True] > 20
    assert seen[False] <= 0.1 * seen[True]  # where one leg or arm hides the other


def test_who_faces_us_shows_the_front_and_who_turns_away_the_back():
    for k in range(20):
        person = make_scene(4, "val", CLASSES.index("person") + len(CLASSES) * k).instances[0]
        charts = set(np.unique(densepose.dense_maps(person)[0]))
        hidden, shown = {1, 7, 8, 11, 12, 17, 18, 21, 22}, {2, 9, 10, 13, 14, 15, 16, 19, 20}
        if person.drawn.figure.view == surface.BACK:
            hidden, shown = shown, hidden
        assert not charts & hidden
        assert len(charts & shown) >= 5


def test_neighbouring_pixels_are_neighbours_on_the_surface(body):
    joints = [
        {f"{side}_{a}", f"{side}_{b}"}
        for side in ("left", "right")
        for a, b in (
            *(("upper_arm", "lower_arm"), ("lower_arm", "hand"), ("upper_leg", "lower_leg")),
            ("lower_leg", "foot"),
        )
    ] + [{"torso", part} for part in ("head", "left_upper_leg", "right_upper_leg")]
    within, across = [], []
    for k in range(8):
        person = make_scene(6, "val", CLASSES.index("person") + len(CLASSES) * k, 256).instances[0]
        maps = densepose.dense_maps(person)
        here, below = ([m[rows].ravel() for m in maps] for rows in (slice(-1), slice(1, None)))
        both = (here[0] > 0) & (below[0] > 0)
        here, below = ([m[both] for m in one] for one in (here, below))
        distances = metres(body, here, below)
        same = here[0] == below[0]
        within += list(distances[same])
        pairs = [{PARTS[a], PARTS[b]} for a, b in zip(here[0], below[0], strict=True)]
        across += list(distances[[pair in joints for pair in pairs]])
    # Along a leg, the mesh's vertices are 0.1 m apart.
    assert np.quantile(within, 0.99) < 0.15
    assert len(across) > 50
    assert np.median(across) < 0.12
    assert np.quantile(across, 0.95) < 0.2


def test_labels_fed_back_as_predictions_score_100(body, labels, people):
    person_of = {label["id"]: person for label, person in people}
    images = []
    for content in labels.values():
        for image in content["images"]:
            own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            whole = [a for a in own if not a["iscrowd"]]
            boxes = np.array([a["bbox"] for a in whole]).reshape(-1, 4)
            maps = []
            for x, y, width, height in boxes.astype(int):
                person = person_of[whole[len(maps)]["id"]]
                charts, u, v = (
                    m[y : y + height, x : x + width] for m in densepose.dense_maps(person)
                )
                maps.append(np.stack([charts, u * 255, v * 255]).astype(np.uint8))
            images.append(
                matching.Image(
                    scores=np.full(len(whole), 0.9),
                    sizes=boxes[:, 2] * boxes[:, 3],
                    areas=np.array([a["area"] for a in own]),
                    annotated=np.array(["dp_x" in a for a in own], dtype=bool),
                    crowds=np.array([a["iscrowd"] for a in own], dtype=bool),
                    gps=similarity.point_similarity(body, boxes, maps, own),
                    mask_iou=similarity.mask_iou(
                        boxes, maps, own, (image["height"], image["width"])
                    ),
                    box_iou=similarity.box_iou(boxes, own),
                )
            )
    results = matching.summarize(images, 0.5)
    gps = results["densepose_gps"]
    assert (gps["AP50"], gps["AP75"]) == pytest.approx((100, 100))
    assert gps["AP"] >= 95
    assert results["densepose_gpsm"]["AP"] >= 90
