"""Which backbone a checkpoint holds, where and whose it is; its entries, checked and renamed.

Whose file it is is never guessed: our own checkpoints say it, others bear marks that no other known
method's files bear (layouts.py), and for all that remain the user says it.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pretrain.encoder import ARCHITECTURES, WITHOUT_BOTTLENECKS, build_encoder
from pretrain.runtime import checkpoints
from pretrain.runtime.reading import CheckpointError, shown
from transfer.convert.converted import is_converted
from transfer.convert.layouts import LAYOUTS, Layout, Method, method_row
from transfer.convert.names import TO_TORCHVISION, TRUNK, prefixes, to_detectron2

DEPTHS = tuple(int(arch.removeprefix("resnet")) for arch in ARCHITECTURES)
COUNTER = "num_batches_tracked"

State = dict[str, Any]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Trunk:
    """Where a backbone lies: in which dictionary (``""``: at the top), and under which prefix."""

    container: str
    prefix: str
    names: str  # as in names.TO_TORCHVISION
    state: State  # all of the dictionary
    keys: dict[str, str] = field(default_factory=dict)  # torchvision's names -> its keys

    @property
    def place(self) -> str:
        """The prefix, the dictionary's name included."""
        return f"{self.container}.{self.prefix}" if self.container else self.prefix

    def is_at(self, prefix: str) -> bool:
        """Whether ``prefix``, with or without the dictionary's name, leads here."""
        return prefix in (self.prefix, self.place)

    def bears(self, mark: str) -> bool:
        """Whether ``mark``, or what begins with it, lies beside it."""
        return any(key == mark or key.startswith(f"{mark}.") for key in self.state)


@dataclass(frozen=True)
class Backbone:
    """One backbone under both names, which share their tensors, and how it was recognised."""

    method: Method | None  # None: where it lies is clear, whose it is is not
    candidates: tuple[str, ...]  # methods whose files have their backbone there
    reason: str
    network: str
    place: str
    depth: int
    torchvision: Tensors
    detectron2: Tensors
    dropped: Counter  # first component of all other keys, or other state dict -> how many

    @property
    def config(self) -> dict[str, Any]:
        """What fine-tuning must match, by Detectron2's keys; ``method`` must be known."""
        return {
            **self.method.config,
            "MODEL.RESNETS.DEPTH": self.depth,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if self.depth in WITHOUT_BOTTLENECKS else 256,
        }


def find_backbone(
    checkpoint: Mapping[str, Any], method: str = "auto", prefix: str | None = None
) -> Backbone:
    """The backbone that ``method`` transfers, or the one under ``prefix``.

    checkpoint: as pretrain.runtime.reading.read returns it, or a state dict. Tensors come out
    contiguous, in float32 and batch counters in int64; those that were so already share the
    checkpoint's memory. Raises CheckpointError, without the file's name, when nothing or too much
    fits, and when the entries are not exactly those of a plain ResNet of one of DEPTHS.
    """
    if is_converted(checkpoint):
        raise CheckpointError("converted already; give it to python -m transfer --weights")
    states = _state_dicts(checkpoint)
    trunks = _trunks(states)
    row, reason, fits = _whose(checkpoint, trunks, method)
    found = _meant(trunks, fits, row, prefix)
    if len(found) != 1:
        asked = f"under --prefix {prefix!r}" if prefix is not None else f"for method {method}"
        components = Counter(key.split(".")[0] for state in states.values() for key in state)
        places = ", ".join(repr(shown(trunk.place)) for trunk in trunks[:8]) or "nothing"
        raise CheckpointError(
            f"{len(found) or 'no'} backbones {asked}. Seen: {counts(components)}; backbones under "
            f"{places}. Name one by --prefix, or its method by --method"
        )
    trunk, networks = found[0], [layout.network for layout, at in fits if row and at is found[0]]
    depth = _check_entries({name: trunk.state[key] for name, key in trunk.keys.items()})
    tensors = {name: _plain(name, trunk.state[key]) for name, key in trunk.keys.items()}
    rest = trunk.state.keys() - set(trunk.keys.values())
    others = {name: len(state) for name, state in states.items() if state is not trunk.state}
    return Backbone(
        method=row,
        candidates=tuple(dict.fromkeys(layout.method for layout, _ in fits)),
        reason=reason,
        network=next(iter(networks), "only network" if len(trunks) == 1 else trunk.place),
        place=trunk.place,
        depth=depth,
        torchvision=tensors,
        detectron2={to_detectron2(name): value for name, value in tensors.items()},
        dropped=Counter(key.split(".")[0] for key in rest) + Counter(others),
    )


def _state_dicts(checkpoint: Mapping[str, Any]) -> dict[str, State]:
    """Tensors at the top and one level down, less what wraps networks.

    That is ``_orig_mod.`` of torch.compile, wherever it stands, and every ``module.`` (of
    DistributedDataParallel and others) that all keys share.
    """
    states = {}
    for container, content in [*checkpoint.items(), ("", checkpoint)]:
        if isinstance(container, str) and isinstance(content, Mapping):
            state = {
                key.replace("_orig_mod.", ""): value
                for key, value in content.items()
                if isinstance(key, str) and isinstance(value, (torch.Tensor, np.ndarray))
            }
            while state and all(key.startswith("module.") for key in state):
                state = {key.removeprefix("module."): value for key, value in state.items()}
            if state:
                states[container] = state
    return states


def _trunks(states: Mapping[str, State]) -> list[Trunk]:
    """Every backbone, whatever its depth."""
    found: dict[tuple[str, str, str], Trunk] = {}
    for container, state in states.items():
        for key, (names, translate) in itertools.product(state, TO_TORCHVISION.items()):
            for prefix in prefixes(key, names):
                name = translate(key.removeprefix(prefix))
                if name is not None and TRUNK.match(name):
                    at = container, prefix, names
                    keys = found.setdefault(at, Trunk(*at, state)).keys
                    if keys.setdefault(name, key) != key:
                        raise CheckpointError(f"{shown(keys[name])} and {shown(key)} are the same")
    return [trunk for trunk in found.values() if "layer1.0.conv1.weight" in trunk.keys]


Fits = list[tuple[Layout, Trunk]]


def _whose(
    checkpoint: Mapping[str, Any], trunks: list[Trunk], method: str
) -> tuple[Method | None, str, Fits]:
    """The method's row, how it is known, and where in the file its backbone may be."""
    says = {f"{key}={value}" for key, value in checkpoint.items() if isinstance(value, str)}
    fits = [
        (layout, trunk)
        for layout in (_own(checkpoint) if checkpoints.is_ours(checkpoint) else LAYOUTS)
        for trunk in trunks
        if layout.names == trunk.names and trunk.is_at(layout.prefix)
        if not (layout.bare and trunk.container)
    ]
    marked = [
        (layout, trunk)
        for layout, trunk in fits
        if layout.marks and all(mark in says or trunk.bears(mark) for mark in layout.marks)
    ]
    owners = list(dict.fromkeys(layout.method for layout, _ in marked))
    if method == "auto" and len(owners) == 1:
        return method_row(owners[0]), f"recognised: {marked[0][0].file}", marked
    if method == "auto":
        return None, "", marked or [fit for fit in fits if not fit[0].marks]
    own = [[fit for fit in some if fit[0].method == method] for some in (marked, fits)]
    others = " and ".join(name for name in owners if name != method)
    reason = "as told" + (f", but its entries are {others}'s" if others else "")
    return method_row(method), reason, own[0] or own[1]


def _own(checkpoint: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Our own checkpoints say whose they are, and which network is transferred."""
    method = method_row(inside(checkpoint, "config", "METHOD", "NAME") or "clove").name
    network = "teacher" if shown(checkpoint.get("export")) == "teacher" else "student"
    file, mark = "checkpoint of python -m pretrain", f"kind={checkpoint['kind']}"
    return (Layout(method, file, f"{network}.encoder.", network, (mark,)),)


def _meant(trunks: list[Trunk], fits: Fits, row: Method | None, prefix: str | None) -> list[Trunk]:
    """The backbones that can be meant, of which there should be one."""
    if prefix is not None:
        start = prefix.rstrip(".") + "." if prefix else ""
        without = start.replace("module.", "")  # which may have been taken off all keys
        return [t for t in trunks if t.is_at(start)] or [t for t in trunks if t.is_at(without)]
    if fits:
        return list(dict.fromkeys(trunk for _, trunk in fits))
    # What other programs wrote under names of their own may be any method's
    known = row is not None and any(layout.method == row.name for layout in LAYOUTS)
    rewritten = ("detectron2", "transformers", "position")
    return [trunk for trunk in trunks if trunk.names in rewritten or not known]


def inside(value: Any, *keys: str) -> Any:
    """What lies below ``keys`` in dictionaries; None where there is none."""
    for key in keys:
        value = dict.get(value, key) if isinstance(value, dict) else None
    return value


def counts(components: Counter) -> str:
    """``319 entries: encoder 318, projector 1``."""
    some = [f"{shown(name)} {count}" for name, count in list(components.items())[:20]]
    some += ["…"] if len(components) > 20 else []
    return f"{components.total()} entries" + (": " if some else "") + ", ".join(some)


@functools.cache
def _expected(depth: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry of torchvision's trunk."""
    with torch.device("meta"):
        state = build_encoder(f"resnet{depth}").state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _check_entries(entries: State) -> int:
    """The depth whose entries these are, exactly; CheckpointError if there is none."""
    shapes = {name: tuple(value.shape) for name, value in entries.items()}
    depth = min(DEPTHS, key=lambda depth: len(_expected(depth).keys() ^ shapes.keys()))
    expected = _expected(depth)
    if not any(name.endswith(COUNTER) for name in entries):  # some sources have none of them
        expected = {name: each for name, each in expected.items() if not name.endswith(COUNTER)}
    wrong = [
        f"{name} is {shapes.get(name, 'missing')}, not {expected.get(name, 'a part of it')}"
        for name in {**expected, **shapes}
        if shapes.get(name) != expected.get(name)
    ]
    if wrong:
        some = ", ".join(map(shown, wrong[:3])) + (", …" if len(wrong) > 3 else "")
        raise CheckpointError(
            f"{len(wrong)} of {len(shapes)} backbone entries do not fit the {len(expected)} of a "
            f"ResNet-{depth} ({some}). Only plain ResNets of {', '.join(map(str, DEPTHS))} layers "
            "convert: no deep stem, no wide ResNet, no ResNeXt. If it is one, is the file "
            "complete, and --prefix right?"
        )
    return depth


def _plain(name: str, value: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Finite and contiguous in a storage of its own: float32, int64 for batch counters."""
    wanted = torch.int64 if name.endswith(COUNTER) else torch.float32
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    odd = value.layout is not torch.strided or value.is_meta or value.is_quantized
    if odd or value.is_complex() or not (value.is_floating_point() or wanted is torch.int64):
        kind = f"{value.layout}, {value.dtype}, on {value.device}"
        raise CheckpointError(f"{name} is not a plain tensor of floating-point weights ({kind})")
    value = value.detach().to("cpu", wanted).contiguous()
    if count := int((~torch.isfinite(value)).sum()):
        raise CheckpointError(
            f"{name} holds {count} values that are NaN or infinite. The run diverged, or the file "
            "is damaged: take an earlier checkpoint"
        )
    own = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if own else value.clone()
