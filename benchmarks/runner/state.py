"""The state file of a stage: what it was made from, so that old and new never mix, and its end.

``{"outcome": "begun", "failed" or "done", "made_from": {...}, "begun": time, "ended": time or null,
"reason": why it failed or null, "last_lines": of its log where it failed}``. A stage that was
interrupted or killed stays ``begun``. Whether it runs at this moment, its lock says.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pretrain.runtime.files import write_json

STATE = "state.json"
BEGUN, FAILED, DONE = "begun", "failed", "done"
LAST_LINES = 5  # of a failed stage's log
SHOWN = 3  # changed settings named for one stage


def write_begun(folder: Path, made_from: Mapping[str, Any]) -> None:
    """To be called before a stage, which may be killed at any moment."""
    begun = {"outcome": BEGUN, "made_from": made_from, "begun": _now(), "ended": None}
    write_json(folder / STATE, begun | {"reason": None, "last_lines": []})


def write_ended(folder: Path, reason: str | None, log: Path) -> None:
    """To be called after a stage; ``reason``: why it failed, None where it did not."""
    ended = {
        "outcome": DONE if reason is None else FAILED,
        "ended": _now(),
        "reason": reason,
        "last_lines": [] if reason is None else last_lines(log, LAST_LINES),
    }
    write_json(folder / STATE, {"made_from": {}, "begun": None} | read_json(folder / STATE) | ended)


def changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What differs between two ``made_from``, in words.

    A key that only one of them has was not recorded, or is not known yet.
    """
    said = []
    for key in now.keys() & before.keys():
        if now[key] == before[key]:
            continue
        if not isinstance(now[key], dict):
            said.append(f"another {key}")
            continue
        pairs = {
            name: (now[key].get(name, "the default"), before[key].get(name, "the default"))
            for name in sorted(now[key].keys() | before[key].keys())
        }
        differing = [
            f"{name} {new} (before: {old})" for name, (new, old) in pairs.items() if new != old
        ]
        said += differing[:SHOWN]
        if len(differing) > SHOWN:
            said.append(f"{len(differing) - SHOWN} more")
    return sorted(said)


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first free ``<folder>.stale-<n>``, and before it its result, which
    tables look for. Nothing is deleted."""
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


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something, without reading all of it; none if it cannot be
    read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            text = file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
