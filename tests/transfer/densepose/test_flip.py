"""The flip table's file, and annotations of mirrored images."""

import re

import numpy as np
import pytest
import torch

from tests.transfer.densepose.cases import POINTS, annotation, load, write_table
from transfer.data.layout import DataError
from transfer.densepose.flip import FlipTable

GOLDEN = load("flip")
SOURCE = "https://dl.fbaipublicfiles.com/densepose/data/UV_symmetry_transforms.mat"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return FlipTable.read(write_table(tmp_path_factory.mktemp("flip") / "table.mat"))


def cells(side=256, count=24, value=0.5):
    """A variable of the file."""
    content = np.empty((1, count), dtype=object)
    for chart in range(count):
        content[0, chart] = np.full((side, side), value)
    return content


def test_the_file_is_read_by_chart_v_and_u(table):
    for name in "uv":
        found = getattr(table, name)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found, (GOLDEN[f"lut_{name}_q"] / 255.0).astype(np.float32))


@pytest.mark.parametrize("case", range(int(GOLDEN["num_cases"])))
def test_a_mirrored_annotation_is_upstreams(case, table):
    before = annotation(*_golden(case, "before"))
    points, segm = _golden(case, "after")
    after = before.flipped(table)
    for name, expected in zip(POINTS, points, strict=True):
        found = getattr(after, name)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(after.segm, segm)
    assert after.segm.dtype == torch.float32


def _golden(case, when):
    values = [GOLDEN[f"case{case}_{when}_{name}"] for name in (*POINTS, "segm")]
    return values[:5], values[5]


def test_a_mirrored_annotation_equals_a_slow_one_by_point_and_pixel(table):
    random = np.random.default_rng(0)
    x, y, u, v = random.random((4, 60)).astype(np.float32)
    i, segm = random.integers(0, 25, 60), random.integers(0, 15, (256, 256))
    u[:2], v[:2] = (0, 1), (1, 0)
    after = annotation((256 * x, 256 * y, i, u, v), segm).flipped(table)
    for k in range(60):
        chart, u_new, v_new = i[k], u[k], v[k]
        if chart:
            row, column = int(v[k] * np.float32(255)), int(u[k] * np.float32(255))
            u_new, v_new = table.u[chart - 1, row, column], table.v[chart - 1, row, column]
        if chart > 2:
            chart += 1 if chart % 2 else -1
        found = [getattr(after, name)[k] for name in POINTS]
        assert found == [256 - 256 * x[k], 256 * y[k], chart, u_new, v_new]
    pairs = {1: 1, 14: 14, 0: 0} | {n: n + 1 for n in (2, 4, 6, 8, 10, 12)}
    pairs |= {other: n for n, other in pairs.items()}
    for row, column in random.integers(0, 256, (200, 2)):
        assert after.segm[row, column] == pairs[segm[row, 255 - column]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"U_transforms": cells(side=255)}, "U_transforms is not 24 cells of 256x256 numbers"),
        ({"V_transforms": cells(count=23)}, "V_transforms is not 24 cells of 256x256 numbers"),
        ({"U_transforms": cells(value=np.nan)}, "U_transforms is not 24 cells of 256x256 numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_named_with_the_way_out(changes, message, tmp_path):
    file = write_table(tmp_path / "table.mat", **changes)
    with pytest.raises(DataError, match=re.escape(f"{file}: {message}")) as stopped:
        FlipTable.read(file)
    assert SOURCE in str(stopped.value)


def test_a_missing_or_damaged_table_is_named_with_the_way_out(tmp_path):
    file = tmp_path / "table.mat"
    with pytest.raises(DataError, match=f"{file} does not exist") as missing:
        FlipTable.read(file)
    write_table(file)
    content = file.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{file} is not a readable MATLAB file"):
            FlipTable.read(file)
    for part in (SOURCE, "INPUT.RANDOM_FLIP none", "DATA.md"):
        assert part in str(missing.value)
