"""What other people's pickles may hold beside tensors and plain values, and an unpickler for it.

numpy's own constructors are never called with a file's arguments: these stand-ins know numbers
and nothing else.
"""

import argparse
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from itertools import islice
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


def _resolve(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Dtype) or type(dtype.code) is not str:
        raise pickle.UnpicklingError("numpy data without a type")
    if dtype.code not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8"):
        raise pickle.UnpicklingError(f"numpy type {dtype.code!r:.40} is not a plain number")
    return np.dtype(dtype.code).newbyteorder(">" if dtype.order == ">" else "<")


class _Array(np.ndarray):
    """numpy.ndarray: empty until its checked type, shape and bytes arrive."""

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, _resolve(dtype), bool(fortran), data))


def _scalar(dtype: _Dtype, data: bytes) -> bool | int | float:
    return np.frombuffer(data, _resolve(dtype), count=1)[0].item()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    """Pickle protocol 5's arrays."""
    return np.frombuffer(data, _resolve(dtype)).reshape(shape, order=order)


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
        *((f"numpy.{core}.numeric._frombuffer", _frombuffer) for core in ("core", "_core")),
    ),
    VICREGL_FILTER: ((VICREGL_FILTER, _never_called),),
}


class _Torch:
    """In the place of a name of torch's and of what it would make: it does nothing."""

    __slots__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __call__(self, *_: Any) -> "_Torch":
        return _Torch()

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


class RestrictedUnpickler(pickle._Unpickler):
    """Loads arrays and plain values, and looks through what torch.load is to load after it.

    ``allowed`` names pass, no others. With ``tensors``, torch's own names pass too, as objects that
    do nothing; then ``found_tensors`` says whether there were any, and ``storage_bytes`` how large
    each storage is said to be, by its key.

    In Python, since the C unpickler fills its table up to any index that a file names: gigabytes
    for one byte. Some instructions are narrower than pickle's own, and some are refused: nothing
    that a file names can be changed by it, and what it makes stays in proportion to its size.
    """

    def __init__(
        self, file: BinaryIO, allowed: Mapping[str, Any], size: int, tensors: bool
    ) -> None:
        """size: of the pickle, in bytes."""
        super().__init__(file, encoding="bytes")  # of Python 2's strings, most of which are arrays
        self._allowed = {
            "collections.OrderedDict": self._ordered_dict,
            "collections.Counter": self._counter,
            "_codecs.encode": self._latin1,
            **allowed,
        }
        self._left = 2 * size  # bytes or items that may yet be made of what may be named often
        self._tensors = tensors
        self.found_tensors = False
        self.storage_bytes: dict[str, int] = {}

    def load(self) -> Any:
        """The content; names that Python 2 wrote are text, in a dictionary and in those in it."""
        content = super().load()
        if type(content) is not dict:
            return content
        return {
            _text(key): {_text(k): v for k, v in value.items()} if type(value) is dict else value
            for key, value in content.items()
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for ``module.name``."""
        full = f"{module}.{name}"
        if full in self._allowed:
            return self._allowed[full]
        if self._tensors and module.split(".")[0] == "torch":
            self.found_tensors = True
            return _Torch(name)
        raise pickle.UnpicklingError(f"GLOBAL {full}")

    def persistent_load(self, pid: Any) -> Any:
        """How torch.save names a storage: a word, its type, its key, its device, its elements."""
        _, kind, key, _, elements = pid[:5]
        if type(key) is not str or type(elements) is not int:
            raise pickle.UnpicklingError("a storage without a name or a size")
        said = _STORAGES[kind.name] * elements
        if self.storage_bytes.setdefault(key, said) != said:
            raise pickle.UnpicklingError(f"storage {key[:40]} has two sizes")
        return _Torch()

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise pickle.UnpicklingError("it unfolds to more than its own size")

    def _latin1(self, text: str, encoding: str) -> bytes:
        """_codecs.encode: how Python 3 writes bytes for older readers."""
        if encoding != "latin1":
            raise pickle.UnpicklingError("bytes encoded as something else than latin1")
        self._spend(len(text))
        # An array's text is named once. Kept by the table, it would double the memory of a file.
        for index in list(islice(reversed(self.memo), 4)):
            value = self.memo[index]
            if value is text or (type(value) is tuple and value and value[0] is text):
                del self.memo[index]
        return text.encode("latin1")

    def _ordered_dict(self, pairs: Any = ()) -> OrderedDict:
        self._spend(len(pairs))
        return OrderedDict((_quick(key), value) for key, value in pairs)

    def _counter(self, counts: Any) -> Counter:
        if type(counts) is not dict:
            raise pickle.UnpicklingError("a Counter of something else than counts")
        self._spend(len(counts))
        return Counter(counts)

    def load_build(self) -> None:
        """Sets the state of a stand-in or a namespace; of nothing else, a class or a function."""
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, _Array):
            self._spend(len(state[4]))
        if isinstance(value, (_Array, _Dtype, _Torch)):
            value.__setstate__(state)
        elif isinstance(value, argparse.Namespace) and type(state) is dict:
            vars(value).update({_text(key): each for key, each in state.items()})
        elif not isinstance(value, dict):  # whose attributes, `_metadata` of a state_dict, may go
            raise pickle.UnpicklingError(f"a {type(value).__name__[:40]} with a state of its own")

    def load_dict(self) -> None:
        """A dictionary of protocol 0."""
        items = self.pop_mark()
        entries = zip(items[::2], items[1::2], strict=True)
        self.append({_quick(key): value for key, value in entries})

    def load_setitem(self) -> None:
        """One more entry of a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_quick(key)] = value

    def load_setitems(self) -> None:
        """More entries of a dictionary."""
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_quick(key)] = value

    def load_bytearray8(self) -> None:
        """The bytes of protocol 5: read before room is made for them."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it has an instruction that no checkpoint needs")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        **dict.fromkeys((pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _refuse),
        **dict.fromkeys((pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0]), _refuse),
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), _refuse),
    }


def _quick(key: Any) -> Any:
    """``key``, if it takes no time to hash: tuples that share tuples take for ever."""
    if not isinstance(key, (str, bytes, int, float, type(None))):
        raise pickle.UnpicklingError(f"a {type(key).__name__[:40]} as the key of a dictionary")
    return key
