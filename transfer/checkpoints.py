"""Pretraining checkpoints: reading them safely, and one row per method that says what they hold."""

import argparse
import logging
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.runtime.files import list_checkpoints

FORMAT = 1  # of a converted file (design.md section 5)
CHECKPOINTS = "checkpoints/step_*.pth"  # below a pretraining run's folder

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the value and the way out."""


# ---------------------------------------------------------------------------------------------
# What other people's files may hold beside tensors and plain values. numpy's own constructors
# are never called with a file's arguments: these stand-ins know numbers and nothing else.


class _Dtype:
    """numpy.dtype: the type code of a plain number."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def resolve(self) -> np.dtype:
        if self.code not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"numpy type {self.code!r} is not a plain number")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array(np.ndarray):
    """numpy.ndarray: empty until its checked type, shape and bytes arrive."""

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.resolve(), bool(fortran), data))


def _scalar(dtype: _Dtype, data: bytes) -> bool | int | float:
    return np.frombuffer(data, dtype.resolve(), count=1)[0].item()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


NAMESPACE = ((argparse.Namespace, "argparse.Namespace"),)
NUMPY = (
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *(
        (stand_in, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")  # numpy 1 and 2
        for stand_in, name in ((_scalar, "scalar"), (_reconstruct, "_reconstruct"))
    ),
)

# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """One way in which a method's files are laid out; ``module.`` before every key is ignored."""

    name: str
    container: str | None  # where the state dict lies; None: the file is the state dict
    networks: dict[str, str]  # backbone prefix -> network; the first one is transferred
    dropped: tuple[str, ...] = ()  # all other keys, by their first components
    marks: tuple[str, ...] = ()  # those of ``dropped`` that tell this method from the others


@dataclass(frozen=True)
class Method:
    """A row: where the files are, what they hold, and what fine-tuning from them must match."""

    name: str
    layouts: tuple[Layout, ...]
    source: str
    license: str
    evidence: str  # S: seen in the code that writes the file; T: tested; I: inferred
    allowed: tuple[tuple[Any, str], ...] = ()  # beside tensors and plain values
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
            "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
        }
    )


METHODS = {
    row.name: row
    for row in (
        Method(
            name="clove",
            layouts=(
                Layout(
                    name="checkpoint of python -m pretrain",
                    container="model",
                    networks={"student.encoder.": "student", "teacher.encoder.": "teacher"},
                    dropped=("student.projector", "teacher.projector", "attention"),
                    marks=("attention",),
                ),
                Layout(
                    name="released file",
                    container="model",
                    networks={"encoder.": "student", "encoder_k.": "teacher"},
                    dropped=("projector", "projector_k", "self_attn"),
                    marks=("self_attn",),
                ),
            ),
            source="https://github.com/sthalles/CLoVE",
            license="released files: none stated in the repository",
            evidence="S, T",
            allowed=NAMESPACE + NUMPY,  # `opt`; the optimizer's learning rate
        ),
        Method(
            name="supervised",
            layouts=(
                Layout(
                    name="torchvision's weights",
                    container=None,
                    networks={"": "only network"},
                    dropped=("fc",),
                    marks=("fc",),
                ),
            ),
            source="https://pytorch.org/vision/stable/models/resnet.html (IMAGENET1K_V1)",
            license="BSD-3-Clause",
            evidence="T",
        ),
    )
}


def method_row(name: str) -> Method:
    """The row called ``name``."""
    if name not in METHODS:
        raise CheckpointError(f"method {name!r} is not one of auto, {', '.join(METHODS)}")
    return METHODS[name]


# ---------------------------------------------------------------------------------------------


def read_checkpoint(path: str | Path, method: str = "auto") -> dict[str, Any]:
    """What ``torch.save`` wrote to ``path``; nothing in the file is executed.

    Tensors and plain values pass, and what ``method``'s row allows (``auto``: any row). Tensors
    of a zip file are mapped, not read: only what is used costs memory.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a checkpoint file")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    rows = METHODS.values() if method == "auto" else [method_row(method)]
    allowed = list({entry for row in rows for entry in row.allowed})
    try:
        zipped = _is_zip(path)
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickle protocols that torch.save does not use
            loaded = torch.load(
                str(path), map_location="cpu", weights_only=True, mmap=zipped or None
            )
    except PermissionError as error:
        raise CheckpointError(f"{path}: may not be read by this user") from error
    except Exception as error:  # a damaged or hostile file can make the reader raise anything
        raise CheckpointError(_reading_failed(path, method, error)) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path}: holds {type(loaded).__name__}, not a checkpoint (a dictionary)"
        )
    return loaded


def _is_zip(path: Path) -> bool:
    """Whether ``path`` is a zip file; EOFError if it is only the beginning of one."""
    with open(path, "rb") as file:
        begins = file.read(4) == b"PK\x03\x04"
    if begins and not zipfile.is_zipfile(path):
        raise EOFError("the end is missing")
    return begins


def _reading_failed(path: Path, method: str, error: Exception) -> str:
    # torch's own message goes on with advice to read the file unsafely: take the fact only.
    text = str(error)
    foreign = re.search(r"GLOBAL (\S+)", text)
    if foreign:
        return (
            f"{path}: holds {foreign[1]}, which is not on the allow-list of method {method}; "
            "nothing was executed. Save the file again with tensors and plain values only"
        )
    fact = re.search(r"WeightsUnpickler error:\s*(.*)", text) or re.match(r"\s*(.*)", text)
    return (
        f"{path}: not a complete, plain PyTorch checkpoint ({type(error).__name__}: "
        f"{fact[1][:200]}). If its copy was cut short, fetch it again"
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
            f"{path}: format {loaded['format']} of converted weights, this version reads {FORMAT}. "
            "Update the repository, or convert the checkpoint again"
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
