"""Surface files, from golden meshes, as they are published but with the distances converted."""

import json
from pathlib import Path

import numpy as np
from scipy.io import savemat

from transfer.densepose.surface import Surface

GOLDEN = Path(__file__).parents[2] / "golden"


def load(name):
    """The arrays of a golden file, as a dict."""
    return dict(np.load(GOLDEN / f"densepose_{name}.npz"))


def load_json(name):
    return json.loads((GOLDEN / f"densepose_{name}.json").read_text())


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
