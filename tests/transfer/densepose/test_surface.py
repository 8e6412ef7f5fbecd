"""The surface: nearest vertices, distances, files that do not fit."""

import pickle

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from tests.transfer.densepose.cases import as_surface, load, load_json, write_surface
from transfer.data.layout import DataError
from transfer.densepose.surface import Surface, load_distances

MESH = load("eval_mesh")
FILES = ("SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat", "Pdist_matrix.npy")


@pytest.fixture
def folder(tmp_path):
    return write_surface(tmp_path / "densepose", MESH)


def test_nearest_vertices_are_upstreams():
    golden, surface = load("eval_expected"), as_surface(MESH)
    people = {f"gt{a['id']}_mesh_vertex": a for a in load_json("eval_gt")["annotations"]}
    compared = people.keys() & golden.keys()
    assert len(compared) > 20
    for name in compared:
        charts, u, v = (np.array(people[name][f"dp_{key}"]) for key in "IUV")
        np.testing.assert_array_equal(surface.nearest(charts, u, v), golden[name] - 1)


def test_nearest_vertices_equal_a_search_of_all():
    surface, random = as_surface(MESH), np.random.default_rng(0)
    charts, u, v = random.integers(-1, 27, 300), random.random(300), random.random(300)
    found = surface.nearest(charts, u, v)
    for point in range(300):
        best, vertex = np.inf, -1
        for k in range(len(surface.charts)):
            distance = np.hypot(*(surface.uv[k] - (u[point], v[point])))
            if surface.charts[k] == charts[point] and distance < best:
                best, vertex = distance, surface.vertices[k]
        assert found[point] == vertex
    assert found.dtype == np.int64


def test_packed_distances_are_those_of_the_matrix():
    surface, vertices = as_surface(MESH), np.arange(-1, 500)
    found = surface.distances(vertices[:, None], vertices)
    np.testing.assert_array_equal(found[1:, 1:], MESH["geodesic"])
    assert np.isinf(found[0]).all()
    assert np.isinf(found[:, 0]).all()
    assert found.dtype == np.float64


def test_files_are_read_as_they_are_published(folder):
    found, expected = Surface.load(folder), as_surface(MESH)
    for name in ("uv", "charts", "vertices", "packed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert isinstance(found.packed.base, np.memmap) or isinstance(found.packed, np.memmap)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named_with_its_source_and_terms(folder, file):
    (folder / file).unlink()
    with pytest.raises(DataError) as caught:
        Surface.load(folder)
    stem = file.removesuffix(".npy") + ".pkl" if file.endswith(".npy") else file
    for said in (
        str(folder / stem),
        f"https://dl.fbaipublicfiles.com/densepose/data/{stem}",
        "licence",
        "TRANSFER.SURFACE",
        "DETECTRON2_DATASETS",
        "python -m benchmarks.scenes DIR",
    ):
        assert said in str(caught.value)


def test_the_published_pickle_is_read_where_it_was_not_converted(folder):
    (folder / FILES[2]).unlink()
    content = {"Pdist_matrix": MESH["Pdist_matrix"]}
    (folder / "Pdist_matrix.pkl").write_bytes(pickle.dumps(content, protocol=2))
    np.testing.assert_array_equal(Surface.load(folder).packed, MESH["Pdist_matrix"].ravel())


@pytest.mark.parametrize("content", [{"Pdist": np.zeros((3, 1))}, {"Pdist_matrix": [1.0, 2.0]}])
def test_a_pickle_of_anything_else_is_named(content, tmp_path):
    file = tmp_path / "Pdist_matrix.pkl"
    file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=f"{file}: expected a dict with an array Pdist_matrix"):
        load_distances(file)


def change(folder, file, **variables):
    content = {k: v for k, v in loadmat(folder / file).items() if not k.startswith("__")}
    content |= variables
    savemat(folder / file, {k: v for k, v in content.items() if v is not None})


def with_value(name, place, value):
    column = MESH[name].astype(np.float64)[:, None]
    column[place] = value
    return column


@pytest.mark.parametrize(
    ("file", "variables", "message"),
    [
        *(
            (FILES[0], {name: value}, f"{name} is not a row or a column of finite numbers")
            for name, value in (
                ("U_subdiv", None),
                ("V_subdiv", np.zeros((30, 20))),
                ("V_subdiv", np.zeros((0, 0))),
                ("U_subdiv", with_value("U_subdiv", 5, np.nan)),
                ("U_subdiv", "text"),
            )
        ),
        (FILES[0], {"U_subdiv": MESH["U_subdiv"][1:]}, "do not fit"),
        (FILES[1], {"index": MESH["index"][1:]}, "do not fit"),
        (FILES[0], {"Part_ID_subdiv": with_value("Part_ID_subdiv", 3, 2.5)}, "do not fit"),
        (FILES[0], {"Part_ID_subdiv": MESH["Part_ID_subdiv"] % 24}, "do not fit"),
        (FILES[1], {"index": MESH["index"] - 1}, "do not fit"),
        (FILES[1], {"index": with_value("index", 3, 7.5)}, "do not fit"),
        (FILES[1], {"index": MESH["index"] + 1}, r"expected \(125250,\) and float: .* 501 vert"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(folder, file, variables, message):
    change(folder, file, **variables)
    with pytest.raises(DataError, match=message) as caught:
        Surface.load(folder)
    assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_damaged_file_is_named(folder, file, kept):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=str(folder / file)):
        Surface.load(folder)


@pytest.mark.parametrize(
    "distances",
    [np.zeros(124749, np.float32), np.zeros((500, 500), np.float32), np.zeros(124750, np.int32)],
)
def test_distances_that_do_not_fit_are_named(folder, distances):
    np.save(folder / FILES[2], distances)
    with pytest.raises(DataError, match=r"has shape .*; expected \(124750,\) and float: index in"):
        Surface.load(folder)
