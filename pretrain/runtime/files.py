"""Atomic writes: a file is either the old one or the complete new one."""

import hashlib
import itertools
import json
import os
import secrets
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the way out."""


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, flush it, then move it there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself must survive a power cut, too.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` atomically."""
    write_atomically(path, lambda file: file.write(data))


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, atomically; NaN and infinity are errors, since JSON has neither."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def write_torch(path: str | Path, value: Any) -> None:
    """``torch.save`` atomically. Store tensors, numbers and strings only: they load safely."""
    import torch  # most that write files need none

    write_atomically(path, lambda file: torch.save(value, file))


def sha256_of(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoints of a pretraining run's folder, oldest first."""
    found = [p for p in Path(run, "checkpoints").glob("step_*.pth") if p.stem[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.stem[5:]))


def hint_at(path: Path, beside: Collection[str]) -> str:
    """What is there in place of a path that is not, for the end of a message; empty if nothing is.

    beside: the names in its folder.
    """
    for other in beside:
        if _plain(other) == _plain(path.name) and other != path.name:
            same = other.casefold() == path.name.casefold()
            how = "other capitals" if same else "another Unicode form of the same letters"
            return f"; {path.parent / other} does: the name has {how}"
    parts = Path(str(path).replace("\\", "/")).parts
    cuts = sorted(itertools.combinations(range(1, len(parts)), 2), key=lambda cut: cut[1] - cut[0])
    for start, end in ((1, 1), *cuts):
        other = Path(*parts[:start], *parts[end:])
        if other != path and other.exists() and other.name == parts[-1]:
            why = "folders need /, not backslashes" if "\\" in str(path) else "a folder too many"
            return f"; {other} does: {why}"
    return ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
