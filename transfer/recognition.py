"""Which backbone a checkpoint holds, where, and whose it is."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transfer.checkpoints import METHODS, CheckpointError, Layout, Method, is_converted, method_row

_TOP = "the top level"
_TRUNK = re.compile(r"(conv1|bn1|layer\d+)\.")

State = dict[str, Any]


@dataclass(frozen=True)
class Backbone:
    """The backbone in a checkpoint, under torchvision's names, and how it was recognised."""

    method: Method | None  # None: the layout is clear, whose file it is is not
    reason: str
    network: str
    prefix: str
    entries: State
    dropped: Counter  # first component of all other keys -> how many


@dataclass(frozen=True)
class _Fit:
    row: Method
    layout: Layout
    container: str
    state: State

    @property
    def marked(self) -> bool:
        return all(_has(self.state, mark) for mark in self.layout.marks)


def find_backbone(
    checkpoint: Mapping[str, Any], method: str = "auto", prefix: str | None = None
) -> Backbone:
    """The backbone that ``method`` transfers, or the one under ``prefix``.

    Raises CheckpointError with a list of what was seen when nothing, or too much, fits.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{type(checkpoint).__name__}, not a checkpoint (a dictionary)")
    if is_converted(checkpoint):
        raise CheckpointError("converted already; give it to python -m transfer --weights")
    if checkpoint.get("kind") == "clove_pretraining" and checkpoint.get("format") != 1:
        raise CheckpointError(
            f"format {checkpoint.get('format')!r} of a pretraining checkpoint, this version reads "
            "1. Update the repository"
        )
    states = _state_dicts(checkpoint)
    rows = list(METHODS.values()) if method == "auto" else [method_row(method)]
    if prefix is not None:
        return _under_prefix(states, rows, method, prefix)
    fits = [
        fit
        for row in rows
        for layout in row.layouts
        for fit in _fits(row, layout, states, strict=method == "auto")
    ]
    fits = [fit for fit in fits if fit.marked] or fits
    if not fits:
        places = " or ".join(repr(_transferred(k)) for row in rows for k in row.layouts)
        raise CheckpointError(
            f"no backbone as method {method} knows it (under {places}). {_seen(states)}. "
            "Name one by --prefix, or try another --method"
        )
    if len(fits) > 1:
        places = ", ".join(f"{fit.row.name}, {fit.layout.name}: {fit.container}" for fit in fits)
        raise CheckpointError(
            f"{len(fits)} backbones fit ({places}). Choose by --method or --prefix"
        )
    return _from_fit(fits[0], told=method != "auto")


def _from_fit(fit: _Fit, told: bool) -> Backbone:
    start = _transferred(fit.layout)
    row: Method | None = fit.row
    if told:
        reason = f"as told: {fit.layout.name}"
    elif fit.marked:
        marks = " and ".join(f"{mark}.*" for mark in (*fit.layout.marks, start.rstrip(".")) if mark)
        reason = f"recognised: {fit.layout.name}, {fit.container} holds {marks}"
    else:
        row, reason = None, f"{fit.container} holds {start}*, as files of several methods do"
    entries = {
        key.removeprefix(start): value
        for key, value in fit.state.items()
        if key.startswith(start) and not _below(key, fit.layout.dropped)
    }
    return _backbone(row, reason, fit.layout.networks[start], start, entries, fit.state)


def _under_prefix(
    states: dict[str, State], rows: list[Method], method: str, prefix: str
) -> Backbone:
    """What was asked for by name: heads beside the trunk (``fc`` and the like) are left out."""
    start = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    found = [
        (container, state, name)
        for container, state in states.items()
        for name in sorted({start, start.removeprefix("module.")})
        if _has_trunk(state, name)
    ]
    if len(found) != 1:
        count = len(found) or "no"
        raise CheckpointError(f"{count} backbones under --prefix {prefix!r}. {_seen(states)}")
    container, state, start = found[0]
    row, network = (None if method == "auto" else rows[0]), f"--prefix {prefix}"
    for candidate in rows:
        for layout in candidate.layouts:
            if start in layout.networks and _Fit(candidate, layout, container, state).marked:
                row, network = candidate, layout.networks[start]
    entries = {
        key.removeprefix(start): value
        for key, value in state.items()
        if key.startswith(start) and _TRUNK.match(key.removeprefix(start))
    }
    reason = f"--prefix {prefix} in {container}"
    return _backbone(row, reason, network, start, entries, state)


def _backbone(
    row: Method | None, reason: str, network: str, prefix: str, entries: State, state: State
) -> Backbone:
    kept = {prefix + key for key in entries}
    dropped = Counter(key.split(".")[0] for key in state if key not in kept)
    return Backbone(row, reason, network, prefix, entries, dropped)


def _state_dicts(checkpoint: Mapping[str, Any]) -> dict[str, State]:
    """State dicts at the top and one level down, less a ``module.`` that all their keys share."""
    states = {}
    for container, state in [(_TOP, checkpoint), *checkpoint.items()]:
        if isinstance(state, Mapping) and any(
            isinstance(value, (torch.Tensor, np.ndarray)) for value in state.values()
        ):
            state = {str(key): value for key, value in state.items()}
            if all(key.startswith("module.") for key in state):
                state = {key.removeprefix("module."): value for key, value in state.items()}
            states[str(container)] = state
    return states


def _fits(row: Method, layout: Layout, states: dict[str, State], strict: bool) -> list[_Fit]:
    """Where ``layout`` fits: in its own container or else, for bare state dicts, anywhere.

    strict: nothing may be there that the layout does not name.
    """
    start = _transferred(layout)
    known = (*(prefix.rstrip(".") for prefix in layout.networks if prefix), *layout.dropped)

    def named(key: str) -> bool:
        return _below(key, known) or (start == "" and _TRUNK.match(key) is not None)

    fits = [
        _Fit(row, layout, container, state)
        for container, state in states.items()
        if _has_trunk(state, start) and (not strict or all(named(key) for key in state))
    ]
    own = [fit for fit in fits if fit.container == (layout.container or _TOP)]
    return own or fits


def _transferred(layout: Layout) -> str:
    return next(iter(layout.networks))


def _has(state: State, component: str) -> bool:
    return any(key.startswith(f"{component}.") for key in state)


def _has_trunk(state: State, prefix: str) -> bool:
    return _has(state, f"{prefix}layer1") or f"{prefix}conv1.weight" in state


def _below(key: str, components: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{component}.") for component in components)


def _seen(states: dict[str, State]) -> str:
    """What the file does hold, and where its backbones are."""
    if not states:
        return "It holds no state dict"
    parts = []
    end = "layer1.0.conv1.weight"
    for container, state in states.items():
        counts = Counter(key.split(".")[0] for key in state).most_common()
        shown = ", ".join(f"{component} {count}" for component, count in counts[:8])
        prefixes = [repr(key.removesuffix(end)) for key in state if key.endswith(end)]
        parts.append(
            f"{container}: {shown}{', …' if len(counts) > 8 else ''}"
            + (f" (backbones under {', '.join(prefixes)})" if prefixes else "")
        )
    return f"Seen in {'; '.join(parts)}"
