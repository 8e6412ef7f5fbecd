"""What a cell was made from, so that old and new weights or settings never mix in one folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.matrix import Cell, Init, backbone
from pretrain.runtime.config import REPOSITORY, ConfigError
from pretrain.runtime.files import sha256_of, write_json


def checkpoint_record(output: Path, init: Init) -> dict[str, Any] | None:
    """What ``source.json`` of ``init`` should say now; None for random weights.

    A file whose path, size and time are those of the last conversion is not hashed again.
    """
    if init.checkpoint is None:
        return None
    stat = init.checkpoint.stat()
    record = {
        "checkpoint": _short(init.checkpoint),
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "method": init.method,
    }
    last = _read_json(_source_json(output, init))
    unchanged = all(last.get(key) == record[key] for key in ("checkpoint", "bytes", "modified_ns"))
    if not (unchanged and "sha256" in last):
        last = {"sha256": sha256_of(init.checkpoint)}
    return record | {"sha256": last["sha256"]}


def is_converted(output: Path, init: Init, record: dict[str, Any]) -> bool:
    """Whether ``backbone.pth`` is there and was made from this very checkpoint."""
    last = _read_json(_source_json(output, init))
    same = all(last.get(key) == record[key] for key in ("sha256", "method"))
    return same and backbone(output, init).is_file()


def write_record(output: Path, init: Init, record: dict[str, Any]) -> None:
    """Say what ``backbone.pth`` was made from; to be called after the conversion."""
    write_json(_source_json(output, init), record)


def forget_record(output: Path, init: Init) -> None:
    """To be called before a conversion, which may be interrupted at any moment."""
    _source_json(output, init).unlink(missing_ok=True)


def made_from(cell: Cell, record: dict[str, Any] | None) -> dict[str, Any]:
    """What decides a cell's result beside its name: the content of its ``cell.json``."""
    return {
        "checkpoint": None if record is None else record["sha256"],
        "method": cell.init.method,
        "config_file": None if cell.config_file is None else _short(cell.config_file),
        "overlay": None if cell.overlay is None else _short(cell.overlay),
        "overrides": cell.overrides,
    }


def write_made_from(cell: Cell, record: dict[str, Any] | None) -> None:
    """Mark the folder of a cell that is about to run."""
    write_json(cell.folder / "cell.json", made_from(cell, record))


def refuse_stale_cells(cells: Sequence[Cell], records: dict[str, dict[str, Any] | None]) -> None:
    """Stop when a cell, finished or begun, was made from something else than it would be now."""
    stale = []
    for cell in cells:
        path = cell.folder / "cell.json"
        if not path.is_file():
            continue
        now, before = made_from(cell, records[cell.init.name]), _read_json(path)
        changed = [key for key in now if before.get(key) != now[key]]
        if changed:
            stale.append(f"  {cell.folder}: another {', another '.join(changed)}")
    if stale:
        raise ConfigError(
            "these cells were made from something else than the config names now:\n"
            + "\n".join(stale)
            + "\nNothing was run or deleted. Move these folders away to run them anew, "
            "or choose another --output."
        )


def _source_json(output: Path, init: Init) -> Path:
    return output / init.name / "source.json"


def _read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; an empty one, which equals nothing, where there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _short(path: Path) -> str:
    """``path`` from the repository on, where it lies below it."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
