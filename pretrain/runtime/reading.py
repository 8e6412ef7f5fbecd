"""The one reader of checkpoints from elsewhere: nothing in a file is executed, whatever it says.

torch.save's files (zip and older) with ``weights_only=True``, safetensors, and bare pickles of
arrays. Beside tensors and plain values they may hold numpy's numbers and arrays, and objects of the
classes that a caller allows. None of these classes is ever called: the stand-ins below take their
place, since numpy's own constructors would believe what a file says of types and sizes.
"""

import logging
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pretrain.runtime.files import list_checkpoints

IN_CLOVE = ("argparse.Namespace",)  # what CLoVE's released files hold: their options

# How torch.save began before its zip format: a number, pickled.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# What lies where a checkpoint was expected, by how it starts, and the way out
_OTHERS = {
    rb"$": "it is empty: fetch it again",
    rb"\s*<": "it is a web page, not the file itself: open the address in a browser, and fetch the "
    "file from there",
    rb"version https://git-lfs": "it is a Git-LFS pointer, not the file itself: git lfs pull "
    "fetches that",
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z|Rar!": "it is compressed: unpack it, and name "
    "the checkpoint",
    rb".{257}ustar": "it is a tar archive: unpack it, and name the checkpoint in it",
    rb"\x89HDF": "it is an HDF5 file, as Keras and others write: save its weights with torch.save "
    "or as safetensors, where it can be read",
    rb"\x93NUMPY": "it is one array of numpy: a checkpoint has many, by name",
    rb"\s*[\[{]": "it is JSON, as the index beside safetensors files is: name the weights",
    rb"\x08[\x00-\x0f]\x12": "it is an ONNX file: convert the checkpoint that it was made from",
}

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the value and the way out."""


def shown(name: Any) -> str:
    """A name or number from a file, fit to be printed: short, and without control characters."""
    if not isinstance(name, (str, int, float)) or (isinstance(name, int) and abs(name) > 10**9):
        return f"a {type(name).__name__}"
    return "".join(c if c.isprintable() else "?" for c in str(name)[:80])


class _Inert:
    """In the place of an allowed class or function, and of its objects: it does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    __setstate__ = __init__


class _Dtype:
    """numpy.dtype: the type code of a plain number, and its byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def resolve(self) -> np.dtype:
        if self.code not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"numpy type {self.code!r:.40} is not a plain number")
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


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    """The arrays of pickle's protocol 5."""
    return np.frombuffer(data, dtype.resolve()).reshape(shape, order=order)


_NUMPY = {"numpy.dtype": _Dtype, "numpy.ndarray": _Array}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _NUMPY |= {
        f"{_core}.multiarray._reconstruct": _Array,
        f"{_core}.multiarray.scalar": _scalar,
        f"{_core}.numeric._frombuffer": _frombuffer,
    }


class _ArrayUnpickler(pickle._Unpickler):
    """Of bare pickles: arrays and plain values under ``stand_ins``, no other name.

    In Python, since the C unpickler makes room for any index that a file names.
    """

    def __init__(self, file: Any, stand_ins: Mapping[str, Any]) -> None:
        super().__init__(file, encoding="latin1")  # of arrays in Python 2's strings
        # str.encode: how Python 3 writes bytes for older readers
        plain = {"collections.OrderedDict": OrderedDict, "_codecs.encode": str.encode}
        self._stand_ins = {**plain, **stand_ins}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for ``module.name``."""
        if f"{module}.{name}" not in self._stand_ins:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return self._stand_ins[f"{module}.{name}"]


def read(path: str | Path, allowed: Collection[str] = ()) -> dict[str, Any]:
    """The dictionary in a checkpoint file, its tensors on the CPU.

    allowed: full names of classes (``argparse.Namespace``) whose objects may lie beside tensors,
    numpy's numbers and arrays, and plain values; they come out as objects that do nothing. Tensors
    of a zip file are mapped, not read: only what is used costs memory. Raises CheckpointError.
    """
    path = Path(path)
    try:
        loaded = _read(path, {**dict.fromkeys(allowed, _Inert), **_NUMPY})
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile file can make a reader raise anything
        raise CheckpointError(_reading_failed(path, error)) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds {type(loaded).__name__}, not a checkpoint")
    # An OrderedDict may have attributes from the file in the place of its methods
    return {
        key: dict(dict.items(value)) if isinstance(value, dict) else value
        for key, value in dict.items(loaded)
    }


def _read(path: Path, stand_ins: Mapping[str, Any]) -> Any:
    with open(path, "rb") as file:
        start = file.read(512)
        zipped = start.startswith(b"PK\x03\x04")
        header = int.from_bytes(start[:8], "little")  # of safetensors: how long its JSON is
        if start[8:9] == b"{" and header < path.stat().st_size:
            return safetensors.torch.load_file(path)
        start = start.removeprefix(b"\xef\xbb\xbf")
        for sign, what in _OTHERS.items():
            if re.match(sign, start, re.DOTALL):
                raise CheckpointError(f"{path}: {what}")
        # A pickle may be text, too; it ends with a full stop
        if re.fullmatch(rb"[\t\r\n -~]{1,500}(?<!\.)", start):
            line = start.decode().strip().partition("\n")[0]
            raise CheckpointError(f"{path}: it is text ({shown(line)}); fetch the file itself")
        if not zipped and _LEGACY not in start[:64]:
            file.seek(0)
            return _ArrayUnpickler(file, stand_ins).load()
    if zipped:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if not any(member.filename.endswith("data.pkl") for member in members):
            raise CheckpointError(
                f"{path}: it is a zip archive: unpack it, and name the checkpoint"
            )
        if any(member.filename.endswith("constants.pkl") for member in members):
            raise CheckpointError(
                f"{path}: it is a program of TorchScript: save its weights, where it may be run: "
                "torch.save(torch.jit.load(FILE).state_dict(), OUT)"
            )
        if any(member.compress_type for member in members):
            raise ValueError("compressed, as torch.save never does")
    entries = [(stand_in, name) for name, stand_in in stand_ins.items()]
    with torch.serialization.safe_globals(entries), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pickle protocols that torch.save does not use
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)


def _reading_failed(path: Path, error: Exception) -> str:
    # torch's own message goes on with advice to read the file unsafely: take the fact only
    text = str(error).rpartition("WeightsUnpickler error:")[2]
    if foreign := re.search(r"GLOBAL (\S+)", text):
        return (
            f"{path}: holds {shown(foreign[1])}, which is neither a tensor nor a plain value and "
            "on no allow-list; nothing was executed. Where that class is installed, and the file "
            "trusted, save its tensors alone: python -c \"import torch; f = torch.load('FILE', "
            "weights_only=False); torch.save(f['state_dict'], 'OUT.pth')\""
        )
    facts = ": ".join(filter(None, (type(error).__name__, shown(text.strip().partition("\n")[0]))))
    return (
        f"{path}: not a complete, plain PyTorch checkpoint, pickle of arrays or safetensors file "
        f"({facts}). If its copy was cut short, fetch it again; otherwise save it again with "
        "tensors and plain values only"
    )


def read_newest(run: str | Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a pretraining run's folder that loads, and its path.

    Broken ones are warned about. Raises CheckpointError when there is none.
    """
    paths = list_checkpoints(run)
    for path in reversed(paths):
        try:
            return path, read(path)
        except CheckpointError as error:
            logger.warning(f"{error}; taking the one before")
    raise CheckpointError(
        f"{run}: none of its {len(paths)} checkpoints loads; move the folder away to start anew"
        if paths
        else f"{run}: no checkpoints/step_*.pth in it; name a checkpoint, or the folder of a run"
    )
