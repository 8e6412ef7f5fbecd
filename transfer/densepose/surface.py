"""The body's surface: vertices, charts and geodesic distances (spec/densepose.md, 10.1 to 10.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.spatial.distance import cdist

from transfer.data.layout import DataError
from transfer.densepose.config import CHARTS

VERTICES = "SMPL_subdiv.mat"
INDEX = "SMPL_SUBDIV_TRANSFORM.mat"
DISTANCES = "Pdist_matrix.npy"
PICKLED_DISTANCES = "Pdist_matrix.pkl"
PUBLISHED = "https://dl.fbaipublicfiles.com/densepose/data"
NO_VERTEX = -1

# k of the similarity exp(-g² / 2k²) by chart, in metres: a part's points come closer by their size.
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
        """Read the published files, the distances as ``convert-distances`` writes them.

        The distances stay on disk until they are asked for. Raises DataError for a file that does
        not exist or does not fit.
        """
        folder = Path(folder)
        file, index_file = folder / VERTICES, folder / INDEX
        u, v, charts = _vectors(file, ("U_subdiv", "V_subdiv", "Part_ID_subdiv"))
        (index,) = _vectors(index_file, ("index",))
        if not len(u) == len(v) == len(charts) == len(index):
            raise DataError(
                f"{file}: U_subdiv, V_subdiv and Part_ID_subdiv have {len(u)}, {len(v)} and "
                f"{len(charts)} entries, index in {index_file} has {len(index)}; expected one "
                "each per UV vertex"
            )
        found = np.unique(charts)
        if not np.array_equal(found, np.arange(1, CHARTS + 1)):
            raise DataError(
                f"{file}: Part_ID_subdiv has {len(found)} values from {found.min():g} to "
                f"{found.max():g}; expected all whole numbers from 1 to {CHARTS}"
            )
        wrong = index[(index < 1) | (index % 1 != 0)]
        if len(wrong):
            raise DataError(f"{index_file}: index has {wrong[0]:g}; expected 1, 2, ..., M")
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


def _require(file: Path) -> None:
    """DataError where ``file`` does not exist, with where it is from."""
    if not file.is_file():
        raise DataError(
            f"{file} does not exist. It belongs to the surface that DensePose is evaluated with, "
            f"{PUBLISHED}/{file.name}: before you use it, see the DensePose project's and SMPL's "
            "licence. The config key TRANSFER.SURFACE names the folder (empty: `densepose` below "
            "DETECTRON2_DATASETS); `python -m benchmarks.scenes DIR` makes a synthetic one"
        )


def _vectors(file: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Variables of a MATLAB file, rows or columns, as (N,) float64."""
    _require(file)
    try:
        content = loadmat(file, variable_names=names)
    except Exception as fault:  # of any kind, where a file is damaged
        raise DataError(f"{file} is not a readable MATLAB file ({fault})") from fault
    vectors = []
    for name in names:
        value = content.get(name)
        if value is None:
            raise DataError(f"{file} has no variable {name}")
        if not (
            isinstance(value, np.ndarray)
            and value.dtype.kind in "iuf"
            and 0 < value.size == max(value.shape)
            and np.isfinite(value).all()
        ):
            shape, dtype = getattr(value, "shape", "?"), getattr(value, "dtype", type(value))
            raise DataError(
                f"{file}: {name} has shape {shape} and type {dtype}; expected a row or a column of "
                "finite numbers"
            )
        vectors.append(value.ravel().astype(np.float64))
    return vectors


def _distances(folder: Path, vertices: int) -> np.ndarray:
    """The packed distances between so many mesh vertices, mapped into memory."""
    file, pickled = folder / DISTANCES, folder / PICKLED_DISTANCES
    if not file.is_file():
        _require(pickled)
        raise DataError(
            f"{file} does not exist, only {pickled}, which is not read here: loading a pickle runs "
            "what its maker put into it. If you trust it, convert it once: python -m "
            f"transfer.densepose convert-distances --trust {pickled}"
        )
    try:
        packed = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as fault:
        raise DataError(f"{file} is not a readable array ({fault})") from fault
    entries = vertices * (vertices - 1) // 2
    if packed.dtype.kind != "f" or packed.shape not in ((entries,), (entries, 1)):
        raise DataError(
            f"{file} has shape {packed.shape} and type {packed.dtype}; expected ({entries},) and "
            f"float: index in {folder / INDEX} has {vertices} vertices"
        )
    return packed.reshape(-1)
