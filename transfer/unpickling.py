"""What other people's pickles may hold beside tensors and plain values, and an unpickler for it.

numpy's own constructors are never called with a file's arguments: these stand-ins know numbers
and nothing else.
"""

import argparse
import pickle
from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from transfer.checkpoints import NAMESPACE, NUMPY, VICREGL_FILTER


def _text(value: str | bytes) -> str:
    """Of a string that Python 2 wrote."""
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """numpy.dtype: the type code of a plain number."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code, self.order = _text(code), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = _text(state[1])

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


def _never_called(*_: Any) -> None:
    raise pickle.UnpicklingError("a call of what may only be stored")


# Row's name for it -> (name in a pickle, stand-in) pairs, for torch.load's weights_only too.
ALLOWED: dict[str, tuple[tuple[str, Any], ...]] = {
    NAMESPACE: ((NAMESPACE, argparse.Namespace),),
    NUMPY: (
        ("numpy.dtype", _Dtype),
        ("numpy.ndarray", _Array),
        *(
            (f"numpy.{core}.multiarray.{name}", stand_in)
            for core in ("core", "_core")  # numpy 1 and 2
            for name, stand_in in (("scalar", _scalar), ("_reconstruct", _reconstruct))
        ),
    ),
    VICREGL_FILTER: ((VICREGL_FILTER, _never_called),),
}


class _Inert:
    """In the place of whatever torch rebuilds: it takes everything and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Bytes per element of the storages that torch.save names; newer types go as UntypedStorage.
_STORAGES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"), 1),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}


def _with_text_keys(value: Any) -> Any:
    if not isinstance(value, dict) or not any(isinstance(key, bytes) for key in value):
        return value
    return {_text(key): _with_text_keys(each) for key, each in value.items()}


# That torch.load lets pass always. A set has a module of Python 2 in protocol 2.
_CONTAINERS = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "builtins.set": set,
    "__builtin__.set": set,
}


class RestrictedUnpickler(pickle._Unpickler):
    """Loads arrays and plain values, and looks through what torch.load is to load after it.

    ``allowed`` names pass, no others. With ``tensors``, torch's own names pass too, as objects that
    do nothing; then ``found_tensors`` says whether there were any, and ``storage_bytes`` how large
    each storage is said to be, by its key.

    In Python, since the C unpickler fills its table up to any index that a file names: gigabytes
    for one byte. A file gets a subclass or partial of its own of every stand-in, so that what it
    sets on them is gone with it.
    """

    def __init__(
        self, file: BinaryIO, allowed: Mapping[str, Any], limit: int, tensors: bool
    ) -> None:
        """limit: bytes that may be made of the file's texts, each of which it may name often."""
        super().__init__(file, encoding="bytes")  # of Python 2's strings, most of which are arrays
        self._allowed = _CONTAINERS | {"_codecs.encode": self._latin1} | dict(allowed)
        self._limit = limit
        self._tensors = tensors
        self.found_tensors = False
        self.storage_bytes: dict[str, int] = {}

    def load(self) -> Any:
        """The content; names that Python 2 wrote are text."""
        return _with_text_keys(super().load())

    def _latin1(self, text: str, encoding: str) -> bytes:
        """_codecs.encode: how Python 3 writes bytes for older readers."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r:.40}")
        self._limit -= len(text)
        if self._limit < 0:
            raise pickle.UnpicklingError("more bytes than the file has")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for ``module.name``."""
        full = f"{module}.{name}"
        if full in self._allowed:
            value = self._allowed[full]
            return type(name, (value,), {}) if isinstance(value, type) else partial(value)
        if self._tensors and module.split(".")[0] == "torch":
            self.found_tensors = True
            return type(name, (_Inert,), {})
        raise pickle.UnpicklingError(f"GLOBAL {full}")

    def persistent_load(self, pid: Any) -> Any:
        """How torch.save names a storage: a word, its type, its key, its device, its elements."""
        _, kind, key, _, elements = pid[:5]
        self.storage_bytes[key] = _STORAGES[kind.__name__] * elements
        return _Inert()
