"""Similarities, against golden ones and against loops over points and pixels."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.transfer.densepose.cases import as_surface, load, load_json, runs
from transfer.densepose.similarity import box_iou, encode_mask, mask_iou, point_similarity

MESH = load("eval_mesh")
SURFACE = as_surface(MESH)
SIZE = (120, 160)  # height, width of an image


def golden_image(image_id):
    """Detection ids, boxes, maps, people of a golden image."""
    golden = load("eval_pred")
    rows = np.flatnonzero(golden["dt_image_id"] == image_id)
    maps = []
    for row in rows:
        first, end = golden["dt_offset"][row : row + 2]
        maps.append(golden["dt_map"][first:end].reshape(3, *golden["dt_hw"][row]))
    people = [a for a in load_json("eval_gt")["annotations"] if a["image_id"] == image_id]
    return rows + 1, golden["dt_bbox"][rows], maps, people


def test_all_pairs_are_upstreams():
    golden = load("eval_expected")
    sizes = {i["id"]: (i["height"], i["width"]) for i in load_json("eval_gt")["images"]}
    for image_id in np.unique(golden["pair_image_id"]).tolist():
        ids, boxes, maps, people = golden_image(image_id)
        found = {
            "gps": point_similarity(SURFACE, boxes, maps, people),
            "mask_iou": mask_iou(boxes, maps, people, sizes[image_id]),
            "box_iou": box_iou(boxes, people),
        }
        found["gpsm"] = np.sqrt(found["gps"] * found["mask_iou"])
        chosen = golden["pair_image_id"] == image_id
        rows = [ids.tolist().index(k) for k in golden["pair_dt_id"][chosen]]
        columns = [[p["id"] for p in people].index(k) for k in golden["pair_gt_id"][chosen]]
        assert len(rows)
        for name, values in found.items():
            expected = golden[f"pair_{name}"][chosen]
            np.testing.assert_allclose(values[rows, columns], expected, rtol=0, atol=1e-6)


def draw(seed, detections=4, people=3, points=30):
    """Boxes, maps, people: some points outside, on background, with label 0; float labels."""
    random = np.random.default_rng(seed)
    boxes = np.concatenate(
        [random.uniform(0, 30, (detections, 2)), random.uniform(40, 90, (detections, 2))], axis=1
    )
    maps = []
    for box in boxes:
        width, height = int(box[2]), int(box[3])
        chart_map = random.integers(0, 256, (3, height, width), dtype=np.uint8)
        chart_map[0] = random.integers(0, 25, (height, width))
        maps.append(chart_map)
    persons = []
    for _ in range(people):
        box = [*random.uniform(0, 30, 2), *random.uniform(40, 90, 2)]
        person = {"bbox": box, "iscrowd": 0}
        for name in "xy":
            person[f"dp_{name}"] = random.uniform(0, 256, points).tolist()
        person["dp_I"] = random.integers(0, 25, points).astype(float).tolist()
        for name in "UV":
            person[f"dp_{name}"] = random.random(points).tolist()
        persons.append(person)
    return boxes, maps, persons


def slow_similarity(box, chart_map, person):
    """GPS of a pair, point by point, with the whole matrix of distances."""
    k = 2 * [0.351] + 2 * [0.107] + 2 * [0.126] + 4 * [0.237] + 4 * [0.173] + 4 * [0.142]
    k += 4 * [0.128] + 2 * [0.150]

    def vertex(chart, u, v):
        own = [n for n in range(len(SURFACE.charts)) if SURFACE.charts[n] == chart]
        return SURFACE.vertices[min(own, key=lambda n: math.dist(SURFACE.uv[n], (u, v)))]

    values = []
    for x, y, chart, u, v in zip(*(person[f"dp_{n}"] for n in "xyIUV"), strict=True):
        column = math.trunc(x * person["bbox"][2] / 255 + person["bbox"][0] - box[0])
        row = math.trunc(y * person["bbox"][3] / 255 + person["bbox"][1] - box[1])
        if chart not in range(1, 25):
            continue
        values.append(0.0)
        if 0 <= column < int(box[2]) and 0 <= row < int(box[3]):
            label, found_u, found_v = chart_map[:, row, column].tolist()
            if label:
                pair = vertex(label, found_u / 255, found_v / 255), vertex(chart, u, v)
                g = float(MESH["geodesic"][pair])
                values[-1] = math.exp(-(g**2) / (2 * k[int(chart) - 1] ** 2))
    return sum(values) / len(values)


def test_similarity_equals_a_loop_over_points():
    boxes, maps, people = draw(0)
    found = point_similarity(SURFACE, boxes, maps, people)
    for row, column in np.ndindex(found.shape):
        expected = slow_similarity(boxes[row], maps[row], people[column])
        assert found[row, column] == pytest.approx(expected, rel=0, abs=1e-12)
    assert found.dtype == np.float64
    assert 0 < found.min() < found.max() < 1


def test_persons_without_points_or_labels_have_no_similarity():
    boxes, maps, people = draw(1)
    for name in "xyIUV":
        people[0].pop(f"dp_{name}")
        people[1][f"dp_{name}"] = []
    people[2]["dp_I"] = 30 * [0.0]
    assert not point_similarity(SURFACE, boxes, maps, people).any()


def test_a_point_less_than_a_pixel_outside_the_left_or_top_edge_reads_the_first_pixel():
    chart_map = np.ones((3, 10, 10), dtype=np.uint8)
    person = {"bbox": [10.0, 10.0, 255.0, 255.0], "dp_I": [1], "dp_U": [0.5], "dp_V": [0.5]}

    def found(x, y):
        boxes = np.array([[20.0, 20.0, 10.6, 10.6]])
        person.update(dp_x=[x - 10], dp_y=[y - 10])
        return point_similarity(SURFACE, boxes, [chart_map], [person])[0, 0] > 0

    assert found(19.1, 19.1)
    assert found(29.9, 29.9)
    for x, y in ((18.9, 25), (25, 18.9), (30.1, 25), (25, 30.1)):  # 10.6 is ten pixels
        assert not found(x, y)


def decoded(mask, box):
    return coco_mask.decode(encode_mask(np.array(mask), box, SIZE))


def test_a_mask_lies_at_its_box_and_is_cut_at_its_and_the_images_borders():
    random = np.random.default_rng(0)
    sides = ((10.9, 20.2, 30.7, 40.3), (140.5, 100.5, 30, 40), (-3.5, -7.2, 20, 20), (200, 5, 9, 9))
    for x, y, width, height in (*sides, (3.4, 5.7, 0.5, 0.6), (3.7, 5.7, 0.5, 0.6)):
        mask = random.random((max(int(height), 1), max(int(width), 1))) < 0.7
        expected = np.zeros(SIZE, dtype=np.uint8)
        for row, column in np.ndindex(mask.shape):
            r, c = int(y) + row, int(x) + column
            inside = 0 <= r < min(SIZE[0], int(y + height)) and 0 <= c < min(
                SIZE[1], int(x + width)
            )
            if inside:
                expected[r, c] = mask[row, column]
        np.testing.assert_array_equal(decoded(mask, (x, y, width, height)), expected)


def test_labelled_masks_are_the_parts_or_else_the_segmentation():
    """Every kind of a label of the same rectangle has an IoU of 1 with it."""
    box = [20, 30, 86, 52]
    boxes, maps = np.array([box], dtype=np.float64), [np.ones((3, 52, 86), dtype=np.uint8)]
    image = np.zeros(SIZE)
    image[30:82, 20:106] = 1
    whole, left, right = np.ones((256, 256)), np.zeros((256, 256)), np.zeros((256, 256))
    left[:, :128], right[:, 128:] = 1, 1
    uncompressed = {"size": list(SIZE), "counts": [20 * 120 + 30, *85 * [52, 68], 52]}
    uncompressed["counts"].append(SIZE[0] * SIZE[1] - sum(uncompressed["counts"]))
    polygon = [20, 30, 106, 30, 106, 82, 20, 82]
    people = [
        {"dp_masks": [runs(left), [], runs(right)], "segmentation": [[0, 0, 5, 0, 5, 5]]},
        {"dp_masks": runs(whole)},
        {"segmentation": [polygon]},
        {"segmentation": runs(image)},
        {"segmentation": uncompressed},
        {"dp_masks": [[], []], "segmentation": [polygon]},
        {"segmentation": []},
        {},
    ]
    found = mask_iou(boxes, maps, [person | {"bbox": box} for person in people], SIZE)
    assert found.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
