"""Reading checkpoints: nothing in a file is executed, whatever it says (design.md section 5)."""

import logging
import re
import shlex
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pretrain.runtime.files import list_checkpoints
from transfer.checkpoints import FORMAT, METHODS, CheckpointError, method_row, shown
from transfer.unpickling import ALLOWED, RestrictedUnpickler

CHECKPOINTS = "checkpoints/step_*.pth"  # below a pretraining run's folder

# How torch.save began before its zip format: a number, pickled.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | Path, method: str = "auto") -> dict[str, Any]:
    """What ``torch.save``, or pickle for arrays, wrote to ``path``; nothing in it is executed.

    Tensors and plain values pass, and what ``method``'s row allows (``auto``: any row). Tensors
    of a zip file are mapped, not read: only what is used costs memory.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a checkpoint file")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: a device or a pipe, not a checkpoint file")
    rows = METHODS.values() if method == "auto" else [method_row(method)]
    allowed = dict(entry for row in rows for name in row.allowed for entry in ALLOWED[name])
    try:
        loaded = _read(path, allowed)
    except PermissionError as error:
        raise CheckpointError(f"{path}: may not be read by this user") from error
    except Exception as error:  # a damaged or hostile file can make a reader raise anything
        raise CheckpointError(_reading_failed(path, method, error)) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path}: holds {type(loaded).__name__}, not a checkpoint (a dictionary)"
        )
    return {key: _plain_dict(value) for key, value in dict.items(loaded)}


def _plain_dict(value: Any) -> Any:
    """An OrderedDict may have attributes from the file in the place of its methods."""
    return dict(dict.items(value)) if isinstance(value, dict) else value


def _read(path: Path, allowed: Mapping[str, Any]) -> Any:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(path, allowed)
        if _LEGACY not in start:
            return RestrictedUnpickler(file, allowed, size, tensors=False).load()
        for _ in range(4):  # the number, a version, the sizes of numbers, and the content
            unpickler = RestrictedUnpickler(file, allowed, size, tensors=True)
            content = unpickler.load()
    if not unpickler.found_tensors:
        return content
    if sum(unpickler.storage_bytes.values()) > size:
        raise ValueError("tensors larger than the file")
    return _torch_load(path, allowed, mmap=None)


def _read_zip(path: Path, allowed: Mapping[str, Any]) -> Any:
    """torch.load, after the file was looked through: it believes what that says of sizes."""
    with zipfile.ZipFile(path) as archive:
        _check_members(path, archive.infolist())
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        pickled = [name for name in sizes if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise ValueError(f"{len(pickled)} pickles in the zip file, not one")
        with archive.open(pickled[0]) as file:
            unpickler = RestrictedUnpickler(file, allowed, sizes[pickled[0]], tensors=True)
            content = unpickler.load()
    if not unpickler.found_tensors:
        return content
    for key, said in unpickler.storage_bytes.items():
        name = pickled[0].removesuffix("data.pkl") + f"data/{key}"
        if sizes.get(name) != said:
            raise ValueError(f"a tensor of {said} bytes in {name} of {sizes.get(name, 'no')} bytes")
    del content
    return _torch_load(path, allowed, mmap=True)


def _torch_load(path: Path, allowed: Mapping[str, Any], mmap: bool | None) -> Any:
    entries = [(value, name) for name, value in allowed.items()]
    with torch.serialization.safe_globals(entries), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickle protocols that torch.save does not use
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """No member compressed, twice, longer than it is, or within another."""
    names = Counter(member.filename.lower() for member in members)  # as torch.load finds them
    if len(names) < len(members):
        raise ValueError(f"{names.most_common(1)[0][0]} is there twice")
    members = sorted(members, key=lambda member: member.header_offset)
    ends = [member.header_offset for member in members[1:]] + [path.stat().st_size]
    with open(path, "rb") as file:
        for member, end in zip(members, ends, strict=True):
            file.seek(member.header_offset + 26)
            name_and_extra = file.read(4)
            lengths = [int.from_bytes(name_and_extra[i : i + 2], "little") for i in (0, 2)]
            start = member.header_offset + _LOCAL_HEADER + sum(lengths)
            stored = member.compress_type == zipfile.ZIP_STORED
            if not (stored and member.compress_size == member.file_size <= end - start):
                raise ValueError(f"{member.filename} is not {member.file_size} bytes long")


def _reading_failed(path: Path, method: str, error: Exception) -> str:
    # torch's own message goes on with advice to read the file unsafely: take the fact only.
    text = str(error)
    foreign = re.search(r"GLOBAL (\S+)", text)
    if foreign:
        return (
            f"{path}: holds {shown(foreign[1])}, which is not on the allow-list of method "
            f"{method}; nothing was executed. Save the file again with tensors and plain values "
            "only"
        )
    fact = re.search(r"WeightsUnpickler error:\s*(.*)", text) or re.match(r"\s*(.*)", text)
    facts = ": ".join(part for part in (type(error).__name__, shown(fact[1])) if part)
    return (
        f"{path}: not a complete, plain PyTorch checkpoint ({facts}). If its copy was cut short, "
        "fetch it again; otherwise save it again with tensors and plain values only"
    )


def read_run(folder: str | Path, method: str = "auto") -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a pretraining run that loads, and its path."""
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return path, read_checkpoint(path, method)
        except CheckpointError as error:
            logger.warning("warning: %s; trying the checkpoint before it", error)
    raise CheckpointError(
        f"{folder}: "
        + (f"none of its {len(found)} checkpoints loads" if found else f"no {CHECKPOINTS} in it")
        + ". Name a checkpoint file, or the folder of a pretraining run"
    )


# ---------------------------------------------------------------------------------------------
# Converted files


def load_converted(path: str | Path) -> dict[str, Any]:
    """A file that ``python -m transfer.convert`` wrote: format, model, meta and so on.

    Raises CheckpointError with the command that converts ``path`` when it is something else.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not converted weights. Run: {_command(path)}")
    loaded = read_checkpoint(path)
    if not is_converted(loaded):
        raise CheckpointError(
            f"{path}: not converted for Detectron2, which would start from random weights without "
            f"an error. Run: {_command(path)}"
        )
    if path.suffix != ".pth":
        raise CheckpointError(f"{path}: Detectron2 unpickles other names than *.pth; rename it")
    if loaded["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {shown(loaded['format'])} of converted weights, this version reads "
            f"{FORMAT}. Update the repository, or convert the checkpoint again"
        )
    return loaded


def _command(path: Path) -> str:
    if path.is_dir():
        out = path / "backbone.pth"
    elif path.match(CHECKPOINTS):
        out = path.parent.parent / "backbone.pth"
    else:
        out = path.with_name(f"{path.name.split('.')[0]}_d2.pth")
    return f"python -m transfer.convert {shlex.quote(str(path))} {shlex.quote(str(out))}"


def is_converted(loaded: Mapping[str, Any]) -> bool:
    """Whether ``loaded`` came out of the converter, in whatever format."""
    return (
        isinstance(loaded.get("format"), int)
        and isinstance(loaded.get("meta"), dict)
        and isinstance(loaded.get("model"), dict)
        and loaded.get("matching_heuristics") is True
    )
