"""Surface files, from golden meshes, as they are published but with the distances converted."""

import numpy as np
from scipy.io import savemat

from transfer.densepose.surface import Surface


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
