"""A small body surface in the terms of DensePose (arXiv 1802.00434), and its files.

Every body part is a tube that hangs straight down. Where a point lies on it is told by ``along``,
0 at its upper and 1 at its lower end, and ``ring``, its turn around the tube, which the person's
right, front, left and back pass at 0, 0.5, 1 and 1.5, modulo 2.
"""

import pickle
from pathlib import Path

import numpy as np

from pretrain.runtime.files import write_atomically

FRONT, RIGHT, BACK = 0.0, -0.5, 1.0  # what a person shows: the ring at its left edge in the image
# The charts of each part, in their order around it; the parts in the order of the coarse ones,
# which count from 1.
CHARTS = {
    "torso": (2, 1),
    "right_hand": (3,),
    "left_hand": (4,),
    "left_foot": (5,),
    "right_foot": (6,),
    "right_upper_leg": (9, 7),
    "left_upper_leg": (10, 8),
    "right_lower_leg": (13, 11),
    "left_lower_leg": (14, 12),
    "left_upper_arm": (15, 17),
    "right_upper_arm": (16, 18),
    "left_lower_arm": (19, 21),
    "right_lower_arm": (20, 22),
    "head": (23, 24),
}
# Where the first one begins: on the right if they are the front and the back; at the back if they
# are the right and the left half, or a single one.
_FIRST_RING = {name: 0.0 if len(own) == 2 else -0.5 for name, own in CHARTS.items()}
_FIRST_RING["head"] = -0.5
COARSE = np.zeros(25, dtype=np.uint8)  # the coarse part of each chart; 0 is the background
for _number, _own in enumerate(CHARTS.values(), start=1):
    COARSE[list(_own)] = _number
MIRRORED = np.array([0, 1, 2] + [c + 1 if c % 2 else c - 1 for c in range(3, 25)], dtype=np.uint8)
# In the charts of the left side U goes around the part and V along it, in the others V around.
_IS_TURNED = np.zeros(25, dtype=bool)
_IS_TURNED[24] = True
for _name, _own in CHARTS.items():
    _IS_TURNED[list(_own)] |= _name.startswith("left")

# Metres: where each tube's axis is to the left of the body's middle, its upper end above the
# ground, its length, and its half-widths from top to bottom; right limbs mirror the left ones.
_TUBES = {
    "head": (0, 1.72, 0.32, (0, 0.09, 0.1, 0.07, 0.055)),
    "torso": (0, 1.4, 0.55, (0.17, 0.16, 0.14, 0.14, 0.15)),
    "upper_arm": (0.23, 1.38, 0.31, (0.055, 0.055, 0.05, 0.05, 0.045)),
    "lower_arm": (0.23, 1.07, 0.28, (0.045, 0.045, 0.04, 0.04, 0.035)),
    "hand": (0.23, 0.79, 0.17, (0.035, 0.04, 0.01)),
    "upper_leg": (0.085, 0.84, 0.42, (0.08, 0.08, 0.07, 0.07, 0.06)),
    "lower_leg": (0.085, 0.42, 0.4, (0.06, 0.06, 0.05, 0.045, 0.04)),
    "foot": (0.085, 0.02, 0.2, (0.04, 0.045, 0.02)),
}
_DEPTH = 0.6  # from front to back, relative to the width
_RING_VERTICES = 8
_TABLE_SIZE = 256
_MATLAB_TEXT = 116  # bytes in front of a MATLAB file, for people


def chart_at(
    part: str, along: np.ndarray, ring: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The charts uint8, U and V in [0, 1] of points of a body part, of ``along``'s shape."""
    own = np.array(CHARTS[part], dtype=np.uint8)
    place = (ring - _FIRST_RING[part]) % 2 * len(own) / 2
    number = place.astype(int)
    charts = own[number]
    return charts, *_turned(charts, along, place - number)


def mirror(
    charts: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The charts, U and V of the points on the body's other side."""
    along, across = _turned(charts, u, v)
    opposite = MIRRORED[charts]
    return opposite, *_turned(opposite, along, 1 - across)


def _turned(charts: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U and V of ``along`` and ``across``; the other way round it is the same."""
    turned = _IS_TURNED[charts]
    return np.where(turned, b, a), np.where(turned, a, b)


def flip_tables() -> tuple[np.ndarray, np.ndarray]:
    """U and V after a flip, (24, 256, 256) float64: row = 255 V, column = 255 U before it."""
    steps = np.linspace(0, 1, _TABLE_SIZE)
    charts = np.arange(1, 25)[:, None, None]
    shape = (24, _TABLE_SIZE, _TABLE_SIZE)
    _, u, v = mirror(charts, steps[None, None, :], steps[None, :, None])
    return np.broadcast_to(u, shape), np.broadcast_to(v, shape)


def mesh() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The UV vertices in random order, and distances along the surface.

    Returns charts (N,) uint8, U and V (N,) float64, the mesh vertices (N,) from 0 to M - 1, of
    which those at one place are the same, and metres (M, M) float64.
    """
    # All of them chart by chart, each chart from top to bottom and, at each level, around it.
    charts, u, v, places, grids, count = [], [], [], [], [], 0
    for part, own in CHARTS.items():
        *_, widths = _tube(part)
        levels, columns = len(widths), _RING_VERTICES // len(own) + 1
        along = np.repeat(np.linspace(0, 1, levels), columns)
        across = np.tile(np.linspace(0, 1, columns), levels)
        for number, chart in enumerate(own):
            label = np.full(along.shape, chart, dtype=np.uint8)
            ring = _FIRST_RING[part] + (number + across) * 2 / len(own)
            own_u, own_v = _turned(label, along, across)
            charts.append(label)
            u.append(own_u)
            v.append(own_v)
            places.append(_place(part, along, ring))
            grids.append((part, count + np.arange(along.size).reshape(levels, columns)))
            count += along.size
    rounded = np.concatenate(places).round(6) + 0.0  # and no -0
    places, vertices = np.unique(rounded, axis=0, return_inverse=True)
    metres = _geodesics(places, [(part, vertices[grid]) for part, grid in grids])
    order = np.random.default_rng(0).permutation(count)
    charts, u, v = (np.concatenate(values)[order] for values in (charts, u, v))
    return charts, u, v, vertices[order], metres


def _geodesics(places: np.ndarray, grids: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Shortest paths (M, M) over the charts' grids, and from limbs and head to the torso."""
    torso = np.concatenate([grid.ravel() for part, grid in grids if part == "torso"])
    pairs = []
    for part, grid in grids:
        pairs += [(grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])]
        pairs += [(grid[1:, 1:], grid[:-1, :-1]), (grid[1:, :-1], grid[:-1, 1:])]
        if part == "head" or "upper" in part:
            end = grid[-1 if part == "head" else 0]
            gaps = np.linalg.norm(places[end, None] - places[torso], axis=2)
            pairs.append((end, torso[gaps.argmin(axis=1)]))
    a, b = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    metres = np.full((len(places), len(places)), np.inf)
    metres[a, b] = metres[b, a] = np.linalg.norm(places[a] - places[b], axis=1)
    np.fill_diagonal(metres, 0)
    for way in range(len(places)):  # Floyd and Warshall's
        np.minimum(metres, metres[:, way, None] + metres[way], out=metres)
    return metres


def _tube(part: str) -> tuple[float, float, float, tuple[float, ...]]:
    """The part's entry of ``_TUBES``, on its own side."""
    side, _, limb = part.partition("_")
    if not limb:
        return _TUBES[part]
    x, *rest = _TUBES[limb]
    return x if side == "left" else -x, *rest


def _place(part: str, along: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Where points are, (n, 3): to the left, up and to the front, metres."""
    x, top, length, widths = _tube(part)
    width = np.interp(along, np.linspace(0, 1, len(widths)), widths)
    turn = np.pi * ring
    return np.stack(
        [x - width * np.cos(turn), top - length * along, _DEPTH * width * np.sin(turn)], axis=-1
    )


def write(folder: Path) -> None:
    """Write the surface's and the flip tables' files, as they are published, into ``folder``.

    The distances are there both as they are published, and as evaluation reads them.
    """
    charts, u, v, vertices, metres = mesh()
    _save_matlab(
        folder / "SMPL_subdiv.mat",
        {"U_subdiv": u[:, None], "V_subdiv": v[:, None], "Part_ID_subdiv": charts[:, None]},
    )
    index = (vertices + 1).astype(np.uint32)
    _save_matlab(folder / "SMPL_SUBDIV_TRANSFORM.mat", {"index": index[:, None]})
    # Of a < b it is entry b (b - 1) / 2 + a.
    packed = metres[np.tril_indices(len(metres), -1)].astype(np.float32)
    write_atomically(folder / "Pdist_matrix.npy", lambda file: np.save(file, packed))
    published = {"Pdist_matrix": packed[:, None]}
    write_atomically(
        folder / "Pdist_matrix.pkl", lambda file: pickle.dump(published, file, protocol=2)
    )
    tables = {}
    for name, values in zip(("U_transforms", "V_transforms"), flip_tables(), strict=True):
        tables[name] = np.empty((1, len(values)), dtype=object)
        tables[name][0] = list(values)
    _save_matlab(folder / "UV_symmetry_transforms.mat", tables)


def _save_matlab(path: Path, variables: dict[str, np.ndarray]) -> None:
    """Write a MATLAB file, with equal bytes for equal variables."""
    from scipy.io import savemat  # not above: whoever draws images can do without

    def save(file) -> None:
        savemat(file, variables, do_compression=True)
        file.seek(0)
        file.write(b"MATLAB 5.0 MAT-file, drawn scenes".ljust(_MATLAB_TEXT))  # was: the date

    write_atomically(path, save)
