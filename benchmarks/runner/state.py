"""What ``run`` writes of a stage: a state file, so that old and new never mix, and a lock.

The state file: ``{"outcome": "begun", "failed" or "done", "made_from": {...}, "begun": time,
"ended": time or null, "reason": why it failed or null, "last_lines": of its log where it failed}``.
A stage that was interrupted or killed stays ``begun``. Whether it runs at this moment, its lock
says.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

STATE = "state.json"
METRICS = "metrics.json"  # of a cell: its presence means done
LOG = "stdout.log"  # of a cell
MATRIX = "matrix.json"  # of the whole folder: what was asked for
BEGUN, FAILED, DONE = "begun", "failed", "done"
LAST_LINES = 5  # of a failed stage's log
DEFAULT = "the default"  # of a setting that nobody wrote down


def changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What differs between two ``made_from``, in words; nothing where nothing does.

    A key that only one of them has was not recorded, or is not known yet.
    """
    said = []
    for key in sorted(key for key in now.keys() & before.keys() if now[key] != before[key]):
        if not isinstance(now[key], dict):
            said.append(f"another {key}")
            continue
        new, old = now[key], before[key]
        said += [
            f"{name} {new.get(name, DEFAULT)} (before: {old.get(name, DEFAULT)})"
            for name in sorted(new.keys() | old.keys())
            if new.get(name) != old.get(name)
        ]
    return ", ".join(said)


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first free ``<folder>.stale-<n>``, and before it its result, which
    tables look for. Nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.stale-{number}")).exists():
        number += 1
    if (folder / METRICS).exists():
        os.rename(folder / METRICS, folder / f"{METRICS}.stale")
    os.rename(folder, aside)
    return aside


def lock_of(output: Path, name: str) -> Path:
    """The lock file of the stage of that name, held while a process works on it, whoever started
    that; not in the stage's own folder, which may be moved aside."""
    return output / ".locks" / f"{name}.lock"


def take_lock(output: Path, name: str) -> IO | None:
    """The stage's lock file, locked; None while another process works on the stage."""
    path = lock_of(output, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    file.close()
    return None


def is_locked(output: Path, name: str) -> bool:
    """Whether a process works on the stage of that name."""
    try:
        with open(lock_of(output, name)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; an empty one, which equals nothing, where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_lines(log: Path) -> list[dict[str, Any]]:
    """The objects of a log of one per line; a line that a killed process cut off is none."""
    objects = []
    for line in log.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            objects.append(json.loads(line))
    return objects


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


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
