"""Converted files: what ``python -m transfer.convert`` writes and ``python -m transfer`` reads."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime import files
from pretrain.runtime.reading import CheckpointError, read, shown
from transfer.convert.layouts import allowed

FORMAT = 1


def write_converted(out: Path, tensors: Mapping[str, Any], meta: dict[str, Any]) -> None:
    """Write ``tensors``, by Detectron2's short names, and what is said of them, atomically."""
    content = {
        "format": FORMAT,
        "model": tensors,
        "matching_heuristics": True,  # Detectron2 finds the short names in C4 and FPN models
        "__author__": "CLoVE on Detectron2",
        "meta": meta,
    }
    files.write_torch(out, content)


def load_converted(path: str | Path) -> dict[str, Any]:
    """A converted file: format, model, meta and so on.

    Raises CheckpointError with the command that converts ``path`` when it is something else.
    """
    path = Path(path)
    loaded = {} if path.is_dir() else read(path, allowed())
    if not is_converted(loaded):
        raise CheckpointError(
            f"{path}: not converted for Detectron2, which would start from random weights without "
            f"an error. Run: python -m transfer.convert {shlex.quote(str(path))} backbone.pth"
        )
    if loaded["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {shown(loaded['format'])} of converted weights, this version reads "
            f"{FORMAT}. Update the repository, or convert the checkpoint again"
        )
    return loaded


def is_converted(loaded: Mapping[str, Any]) -> bool:
    """Whether ``loaded`` came out of the converter, in whatever format."""
    return (
        isinstance(loaded.get("format"), int)
        and isinstance(loaded.get("meta"), dict)
        and isinstance(loaded.get("model"), dict)
        and loaded.get("matching_heuristics") is True
    )
