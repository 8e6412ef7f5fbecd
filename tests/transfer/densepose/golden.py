"""The golden files of DensePose."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[2] / "golden"


def load(name):
    """The arrays of a golden file, as a dict."""
    return dict(np.load(GOLDEN / f"densepose_{name}.npz"))


def load_json(name):
    return json.loads((GOLDEN / f"densepose_{name}.json").read_text())
