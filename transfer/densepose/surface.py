"""The body's surface (SMPL's): vertices, charts and geodesic distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.spatial.distance import cdist

from pretrain.runtime.files import DataError
from pretrain.runtime.reading import read
from transfer.densepose.config import CHARTS

VERTICES = "SMPL_subdiv.mat"
INDEX = "SMPL_SUBDIV_TRANSFORM.mat"
DISTANCES = "Pdist_matrix.npy"
PICKLED_DISTANCES = "Pdist_matrix.pkl"
PUBLISHED = "https://dl.fbaipublicfiles.com/densepose/data"
NO_VERTEX = -1

# k of the similarity exp(-g² / 2k²) by chart, in metres: on a smaller part of the body the same
# distance is a larger error. (Güler et al., 2018, have one k of 0.255 m for all.)
NORMALISERS = np.repeat(
    # none, torso, hands, feet, upper and lower legs, upper and lower arms, head
    [np.nan, 0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150],
    [1, 2, 2, 2, 4, 4, 4, 4, 2],
)


@dataclass(frozen=True)
class Surface:
    """UV vertices, which repeat mesh vertices along the seams of charts, and distances.

    uv: (N, 2) float64 in [0, 1]; charts: (N,) int64, 1 to 24; vertices: (N,) int64, the mesh vertex
    of each, 0 to M-1; packed: (M(M-1)/2,) float, metres: that of a < b is entry b(b-1)/2 + a.
    """

    uv: np.ndarray
    charts: np.ndarray
    vertices: np.ndarray
    packed: np.ndarray

    @classmethod
    def load(cls, folder: str | Path) -> Surface:
        """Read the published files.

        The distances may also lie in a plain array, which stays on disk until it is asked for: the
        published pickle takes 1.5 GB in every process. Raises DataError for a file that does not
        exist or does not fit, CheckpointError for a pickle of anything else.
        """
        folder = Path(folder)
        file, index_file = folder / VERTICES, folder / INDEX
        u, v, charts = _vectors(file, ("U_subdiv", "V_subdiv", "Part_ID_subdiv"))
        (index,) = _vectors(index_file, ("index",))
        fits = len(u) == len(v) == len(charts) == len(index) and not (index % 1).any()
        if not fits or index.min() < 1 or set(charts) != set(range(1, CHARTS + 1)):
            raise DataError(
                f"{file} and {index_file} do not fit: expected U, V, Part_ID (whole numbers, all "
                f"from 1 to {CHARTS}) and index (1, 2, ..., M) of each UV vertex"
            )
        vertices = index.astype(np.int64) - 1
        packed = _distances(folder, int(vertices.max()) + 1)
        return cls(np.stack([u, v], axis=1), charts.astype(np.int64), vertices, packed)

    def nearest(self, charts: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The mesh vertices (n,) int64 whose U, V are the nearest of a chart; of equals the first.

        charts: (n,), -1 is the answer where not 1 to 24; u, v: (n,) in [0, 1].
        """
        found = np.full(len(charts), NO_VERTEX)
        points = np.stack([u, v], axis=1)
        for chart in range(1, CHARTS + 1):
            asked = np.flatnonzero(charts == chart)
            if len(asked):
                own = np.flatnonzero(self.charts == chart)
                closest = cdist(points[asked], self.uv[own]).argmin(axis=1)
                found[asked] = self.vertices[own[closest]]
        return found

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Metres between mesh vertices, float64; infinite where one is -1.

        a, b: int64, of shapes that broadcast, which gives the answer's.
        """
        low, high = np.minimum(a, b), np.maximum(a, b)
        found = np.where(low == NO_VERTEX, np.inf, 0.0)
        apart = (low != NO_VERTEX) & (low != high)
        low, high = low[apart], high[apart]
        found[apart] = self.packed[high * (high - 1) // 2 + low]
        return found


def read_matlab(file: str | Path, names: Sequence[str], way_out: str) -> dict[str, Any]:
    """Variables of a MATLAB file by name; absent is what it lacks.

    Raises DataError, which ends with ``way_out``, where there is no such file.
    """
    if not Path(file).is_file():
        raise DataError(f"{file} does not exist. {way_out}")
    try:
        return loadmat(file, variable_names=names)
    except Exception as fault:  # of any kind, where a file is damaged
        raise DataError(f"{file} is not a readable MATLAB file ({fault}). {way_out}") from fault


def _way_out(file: Path) -> str:
    return (
        "It belongs to the surface that DensePose is evaluated with, "
        f"{PUBLISHED}/{file.name}: before you use it, see the DensePose project's and SMPL's "
        "licence. The config key TRANSFER.SURFACE names the folder (empty: `densepose` below "
        "DETECTRON2_DATASETS); `python -m benchmarks.scenes DIR` makes a synthetic one"
    )


def _vectors(file: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Variables of a MATLAB file, rows or columns, as (N,) float64."""
    content = read_matlab(file, names, _way_out(file))
    vectors = []
    for name in names:
        value = np.asarray(content.get(name, "absent"))
        if (
            value.dtype.kind not in "iuf"
            or not 0 < value.size == max(value.shape)
            or not np.isfinite(value).all()
        ):
            raise DataError(f"{file}: {name} is not a row or a column of finite numbers")
        vectors.append(value.ravel().astype(np.float64))
    return vectors


def _distances(folder: Path, vertices: int) -> np.ndarray:
    """The packed distances between so many mesh vertices: mapped into memory, if converted."""
    file = folder / DISTANCES
    if file.is_file():
        try:
            packed = np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError) as fault:
            raise DataError(f"{file} is not a readable array ({fault})") from fault
    else:
        file = folder / PICKLED_DISTANCES
        packed = load_distances(file)
    entries = vertices * (vertices - 1) // 2
    if packed.dtype.kind != "f" or packed.shape not in ((entries,), (entries, 1)):
        raise DataError(
            f"{file} has shape {packed.shape} and type {packed.dtype}; expected ({entries},) and "
            f"float: index in {folder / INDEX} has {vertices} vertices"
        )
    return packed.reshape(-1)


def load_distances(file: Path) -> np.ndarray:
    """The published distances, an array in a dict that Python 2 pickled; nothing in it is executed.

    Raises DataError where there is no such file or no such array, CheckpointError for a file that
    holds anything but arrays and plain values.
    """
    if not file.is_file():
        raise DataError(f"{file} does not exist. {_way_out(file)}")
    packed = read(file).get("Pdist_matrix")
    if not isinstance(packed, np.ndarray) or packed.dtype.kind != "f":
        raise DataError(f"{file}: expected a dict with an array Pdist_matrix of floats")
    return packed.astype(np.float32, copy=False)
