"""What a stage was made from, so that old and new weights, settings or data never mix.

A finished or begun folder that was made from something else is moved aside, and nothing is deleted.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.matrix import PRETRAIN, Cell, Init, backbone, checkpoint_file, short
from pretrain.runtime.files import sha256_of, write_json

SHOWN = 3  # changed settings named for one cell


def checkpoint_record(output: Path, init: Init) -> dict[str, Any] | None:
    """What ``source.json`` of ``init`` should say now; None where there is no checkpoint (yet).

    A file whose path, size and time are those of the last conversion is not hashed again.
    """
    source = init.source(output)
    checkpoint = None if source is None else checkpoint_file(source)
    if checkpoint is None or not checkpoint.is_file():
        return None
    stat = checkpoint.stat()
    record = {
        "checkpoint": short(checkpoint),
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "method": init.method,
    }
    last = read_json(_source_json(output, init))
    unchanged = all(last.get(key) == record[key] for key in ("checkpoint", "bytes", "modified_ns"))
    if not (unchanged and "sha256" in last):
        last = {"sha256": sha256_of(checkpoint)}
    return record | {"sha256": last["sha256"]}


def is_converted(output: Path, init: Init) -> bool:
    """Whether ``backbone.pth`` is there and was made from this very checkpoint."""
    last = read_json(_source_json(output, init))
    if not last or not backbone(output, init).is_file():
        return False
    record = checkpoint_record(output, init)
    return record is not None and all(last[key] == record[key] for key in ("sha256", "method"))


def write_record(output: Path, init: Init) -> None:
    """Say that ``backbone.pth`` was made from the checkpoint as it lies there now."""
    write_json(_source_json(output, init), checkpoint_record(output, init))


def begin_record(output: Path, init: Init) -> None:
    """To be called before a conversion, which may be interrupted at any moment."""
    _source_json(output, init).unlink(missing_ok=True)
    write_json(_begun_json(output, init), checkpoint_record(output, init))


def keep_record(output: Path, init: Init) -> None:
    """To be called after the conversion of what ``begin_record`` saw."""
    os.replace(_begun_json(output, init), _source_json(output, init))


def backbone_record(output: Path, init: Init) -> dict[str, Any] | None:
    """What ``backbone.pth`` was made from, whatever lies in that place now."""
    return read_json(_source_json(output, init)) or None


def request_json(output: Path, init: Init) -> Path:
    """What a pretraining run was asked for, and whether it has done it."""
    return output / init.name / PRETRAIN / "request.json"


def made_from(cell: Cell, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What decides a cell's result beside its name and data: the content of its ``cell.json``."""
    made = {"method": cell.init.method, "settings": cell.settings}
    if cell.init.pretrain is not None:
        made["pretrain"] = cell.init.pretrain.settings
    if record is not None or not cell.init.stages:
        made["checkpoint"] = None if record is None else record["sha256"]
    return made


def write_made_from(output: Path, cell: Cell) -> None:
    """Mark the folder of a cell that is about to run."""
    write_json(cell.folder / "cell.json", made_from(cell, backbone_record(output, cell.init)))


def data_of(cell: Cell) -> str | None:
    """The sha256 of the annotations that a finished or begun cell was run on."""
    finished = read_json(cell.folder / "metrics.json")
    begun = read_json(cell.folder / "provenance.json").get("run") or {}
    return (finished or begun).get("data", {}).get("sha256")


def stale_cells(
    cells: Iterable[Cell], records: Mapping[str, dict | None], data: Mapping[str, str]
) -> list[tuple[Cell, str]]:
    """The cells that were made from something else than they would be now, and from what.

    records: by init, of its checkpoint or its backbone. data: sha256 of the annotations by task,
    where known.
    """
    stale = []
    for cell in cells:
        if not (cell.folder / "cell.json").is_file():
            continue
        now = made_from(cell, records[cell.init.name])
        changed = _changes(now, read_json(cell.folder / "cell.json"))
        before = data_of(cell)
        if cell.task in data and before not in (None, data[cell.task]):
            changed.append("another data set")
        if changed:
            stale.append((cell, ", ".join(changed)))
    return stale


def stale_pretraining(output: Path, init: Init) -> str | None:
    """What is different about the pretraining that lies there; None where nothing is."""
    before = read_json(request_json(output, init)).get("settings")
    if init.pretrain is None or before is None:
        return None
    return ", ".join(_changes({"settings": init.pretrain.settings}, {"settings": before})) or None


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first free ``<folder>.stale-<n>``, and before it its result, which
    tables look for."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.stale-{number}")).exists():
        number += 1
    if (folder / "metrics.json").exists():
        os.rename(folder / "metrics.json", folder / "metrics.json.stale")
    os.rename(folder, aside)
    return aside


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; an empty one, which equals nothing, where there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """In words. A key that only one of them has was not recorded, or is not known yet."""
    changes = []
    for key in now.keys() & before.keys():
        if now[key] == before[key]:
            continue
        if not isinstance(now[key], dict):
            changes.append(f"another {key}")
            continue
        keys = sorted(
            name
            for name in now[key].keys() | before[key].keys()
            if now[key].get(name) != before[key].get(name)
        )
        changes += [
            f"{name} {now[key].get(name)} (before: {before[key].get(name)})"
            for name in keys[:SHOWN]
        ]
        if len(keys) > SHOWN:
            changes.append(f"{len(keys) - SHOWN} more")
    return sorted(changes)


def _source_json(output: Path, init: Init) -> Path:
    return output / init.name / "source.json"


def _begun_json(output: Path, init: Init) -> Path:
    return output / init.name / "source.begun.json"
