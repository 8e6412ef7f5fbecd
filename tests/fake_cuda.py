"""CUDA tensors without a GPU: shape, strides, type and device are true, the numbers are not there.

They are fakes beside real CPU tensors. What the host would wait for, what is copied, launched and
held is written down. Wrong numbers, races and time cannot be seen.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).parents[1]
CUDA = torch.device("cuda", 0)
# They launch nothing
VIEWS = "view detach alias _unsafe_view expand t transpose permute select slice split unbind"
VIEWS += " squeeze unsqueeze as_strided split_with_sizes _reshape_alias lift_fresh diagonal unfold"
EMPTY = "empty empty_strided empty_like new_empty new_empty_strided"
FREE = {*VIEWS.split(), *EMPTY.split(), "record_stream", "set_", "resize_", "device"}
# Their results' shapes are in the numbers, for which the host waits
WAITING = {"nonzero", "masked_select", "unique_consecutive", "_unique2", "equal", "is_nonzero"}


@dataclass(frozen=True)
class Event:
    """One call that is worth a look, by the innermost lines of the project that led to it."""

    name: str
    lines: tuple[str, ...]  # path:function, innermost first
    detail: Any = None

    def within(self, *places: str) -> bool:
        """Whether one of the lines starts with one of ``places``."""
        return any(line.startswith(places) for line in self.lines)


@dataclass
class Trace:
    """What happened on the device."""

    syncs: list[Event] = field(default_factory=list)
    copies: list[Event] = field(default_factory=list)  # to the device; detail: blocking or not
    launches: list[Event] = field(default_factory=list)  # detail: bytes read and written
    convolved: list[Event] = field(default_factory=list)  # detail: channels last or not
    lists: list[Event] = field(default_factory=list)  # foreach; detail: on the fast path or not
    live: int = 0  # bytes
    peak: int = 0


class FakeCuda(TorchDispatchMode):
    """While it is on, tensors on "cuda" are fakes, and ``trace`` is written."""

    def __init__(self) -> None:
        super().__init__()
        torch._C._ensureCUDADeviceGuardSet()  # indexing asks for it
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.trace = Trace()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, device = func._schema.name.partition("::")[2], kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        fakes = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        target = torch.device(device).type if device is not None else None
        if not fakes and target != "cuda":
            return func(*args, **kwargs | ({"pin_memory": False} if "pin_memory" in kwargs else {}))
        if target == "cpu" or name in ("_local_scalar_dense", "item", *WAITING):
            return self._to_host(name, fakes[0], kwargs)
        if name == "copy_" and isinstance(args[1], FakeTensor) > isinstance(args[0], FakeTensor):
            if not (kwargs.get("non_blocking") or args[2:] == (True,)):
                self.trace.syncs.append(self._event(name))
            return args[0]
        if name in ("copy_", "_to_copy") and len(fakes) < len(tensors):
            free = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            self.trace.copies.append(self._event(name, not free))
        if name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.trace.syncs.append(self._event(name))
            return self._run(torch.ops.aten.clone.default, (args[0],), {})
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.trace.syncs.append(self._event(name))
        with self.fake:
            if stand_in := BN_KERNELS.get(name):
                output = stand_in(args[0], *args[1:2])
            else:
                output = self._run(func, args, kwargs)
        self._write_down(name, args, fakes, output)
        return output

    def _run(self, func, args, kwargs):
        def as_fake(leaf):
            real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)
            return self.fake.from_tensor(leaf, static_shapes=True) if real else leaf

        args, kwargs = tree_map(as_fake, (args, kwargs))
        with self.fake:
            return func(*args, **kwargs)

    def _to_host(self, name, tensor, kwargs):
        """Ones, or a 1, in the place of numbers; zeros where room is made for what will come."""
        dtype = kwargs.get("dtype") or tensor.dtype
        if name in EMPTY.split():
            with _disable_current_modes():
                return torch.zeros(tensor.shape, dtype=dtype)
        self.trace.syncs.append(self._event(name))
        if name == "nonzero":
            with self.fake:
                return torch.empty(1, tensor.ndim, dtype=torch.long, device=CUDA)
        if name in ("equal", "is_nonzero"):
            return True
        with _disable_current_modes():
            ones = torch.ones(tensor.shape, dtype=dtype)
            return ones.item() if name in ("_local_scalar_dense", "item") else ones

    def _event(self, name, detail=None):
        lines, frame = [], sys._getframe(2)
        while frame:
            path = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
            if path.startswith(("pretrain/", "transfer/")):
                lines.append(f"{path}:{frame.f_code.co_name}")
            frame = frame.f_back
        return Event(name, tuple(lines), detail)

    def _write_down(self, name, args, fakes, output):
        trace = self.trace
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        for tensor in outputs:
            if tensor.device.type == "cuda":
                self._hold(tensor.untyped_storage())
        if name == "convolution" and args[0].ndim == 4:
            last = args[0].is_contiguous(memory_format=torch.channels_last)
            trace.convolved.append(self._event(name, last))
        if name.startswith("_foreach"):
            lists = [each for each in args if isinstance(each, list | tuple)]  # of tensors
            same = all(_alike(*each) for each in zip(*lists, strict=True))
            trace.lists.append(self._event(name, same))
            count = 1 if same else len(lists[0])
        else:
            count = int(name not in FREE)
        if count:
            seen = {id(tensor): tensor for tensor in (*fakes, *outputs)}.values()
            size = sum(tensor.numel() * tensor.element_size() for tensor in seen)
            trace.launches += [self._event(name, size / count)] * count

    def _hold(self, storage):
        key = storage._cdata
        if key in self._storages and not self._storages[key][0].expired():
            return
        self._storages[key] = StorageWeakRef(storage), storage.nbytes()
        if storage.nbytes() > 2**20:
            self.sweep()

    def sweep(self) -> int:
        """Bytes that are held now."""
        held = {key: each for key, each in self._storages.items() if not each[0].expired()}
        self._storages = held
        self.trace.live = sum(size for _, size in held.values())
        self.trace.peak = max(self.trace.peak, self.trace.live)
        return self.trace.live


def _alike(*tensors):
    """Whether foreach takes them together with the others of their lists."""
    return len({(each.shape, each.dtype, each.stride()) for each in tensors}) == 1


def _channels(x):
    return torch.empty(x.shape[1], device=CUDA)


# CUDA's kernels of BN over several GPUs, of which torch has no shapes
BN_KERNELS = {
    "batch_norm_stats": lambda x, *_: (_channels(x), _channels(x)),
    "batch_norm_elemt": lambda x, *_: torch.empty_like(x),
    "batch_norm_backward_reduce": lambda _, x: tuple(_channels(x) for _ in range(4)),
    "batch_norm_backward_elemt": lambda _, x: torch.empty_like(x),
}


class _Stub:
    """A stream or an event."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


PROPERTIES = SimpleNamespace(name="fake", major=9, minor=0, total_memory=80 * 2**30)
LOADER = torch.utils.data.DataLoader


def _pageable_loader(*args: Any, **kwargs: Any) -> LOADER:
    """One that pins no memory, which needs a driver."""
    return LOADER(*args, **kwargs | {"pin_memory": False})


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """One CUDA device of fakes; what the project asks ``torch.cuda`` is answered."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "is_initialized": False,
        "get_device_properties": PROPERTIES,
        "get_device_capability": (9, 0),
        "get_device_name": PROPERTIES.name,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "_lazy_init": None,
        "set_device": None,
        "synchronize": None,
        "manual_seed_all": None,
        "stream": contextlib.nullcontext(),
        "current_stream": _Stub(),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(
                mock.patch.object(torch.cuda, name, lambda *a, _answer=answer, **k: _answer)
            )
        for name in ("Stream", "Event"):
            stack.enter_context(mock.patch.object(torch.cuda, name, _Stub))
        replaced = [
            (torch.Tensor, "record_stream", lambda *_: None),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.utils.data, "DataLoader", _pageable_loader),
        ]
        for owner, name, stand_in in replaced:
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        yield stack.enter_context(FakeCuda())


def allow_backward() -> None:
    """Let autograd run on fakes, for the rest of this process.

    It asks CUDA's hooks, which an absent driver makes raise, whether the device has a context: the
    answer becomes no. By the place of that function in this torch's table, on x86-64 Linux.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    get_hooks = ctypes.CDLL(str(path))._ZN2at6detail12getCUDAHooksEv
    get_hooks.restype = ctypes.c_void_p
    hooks = ctypes.cast(get_hooks(), ctypes.POINTER(ctypes.c_void_p))
    table = ctypes.cast(hooks[0], ctypes.POINTER(ctypes.c_void_p))
    before, size, has_primary_context = 2, 80, 4  # of the table: two words come before it
    copy = (ctypes.c_void_p * (before + size))(*[table[n - before] for n in range(before + size)])
    answer = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda *_: False)
    copy[before + has_primary_context] = ctypes.cast(answer, ctypes.c_void_p).value
    hooks[0] = ctypes.addressof(copy) + before * ctypes.sizeof(ctypes.c_void_p)
    allow_backward.kept = copy, answer  # for as long as the process lives
