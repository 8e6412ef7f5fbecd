"""A run's checkpoints: complete, atomic, tensors and numbers and strings only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.files import list_checkpoints, write_torch
from pretrain.runtime.reading import CheckpointError, read, read_newest, shown

FORMAT = 2
KIND, KIND_1 = "pretraining", "clove_pretraining"  # the latter of format 1


def save(run: str | Path, step: int, content: dict[str, Any], keep: int) -> Path:
    """Write ``run``/checkpoints/step_<step>.pth, then drop all but the newest ``keep``.

    Raises OSError when it cannot be written; those before it stay.
    """
    path = Path(run, "checkpoints", f"step_{step:08d}.pth")
    try:
        write_torch(path, {"format": FORMAT, "kind": KIND, "step": step, **content})
    except (OSError, RuntimeError) as error:  # torch.save raises the latter at a full disk, too
        raise OSError(
            f"{path}: cannot be written ({error}). The checkpoints before it are complete: "
            "--resume goes on from them"
        ) from error
    for old in (*list_checkpoints(run)[: -max(keep, 1)], *path.parent.glob(".step_*.tmp")):
        old.unlink()  # the others are what a killed process left half-written
    return path


def load(path: str | Path) -> dict[str, Any]:
    """One checkpoint, on the CPU. Raises CheckpointError unless it is complete and ours."""
    return _require_ours(path, read(path))


def load_latest(run: str | Path) -> dict[str, Any] | None:
    """The newest checkpoint that loads, None where there is no file; broken ones are warned about.

    Raises CheckpointError when files are there and none of them loads.
    """
    return _require_ours(*read_newest(run)) if list_checkpoints(run) else None


def is_ours(content: Mapping[str, Any], name: str | Path = "a pretraining checkpoint") -> bool:
    """Whether python -m pretrain wrote it. Raises CheckpointError when newer code did."""
    if shown(content.get("kind")) not in (KIND, KIND_1):
        return False
    version = content.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(
            f"{name}: format {shown(version)} is newer than this code's {FORMAT}; update it"
        )
    return True


def _require_ours(path: str | Path, content: dict[str, Any]) -> dict[str, Any]:
    if not is_ours(content, path):
        raise CheckpointError(f"{path}: not a checkpoint of python -m pretrain")
    return content
