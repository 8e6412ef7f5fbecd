"""Which backbone a checkpoint holds, where, and whose it is."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from transfer.checkpoints import (
    DETECTRON2,
    METHODS,
    CheckpointError,
    Layout,
    Method,
    method_row,
    shown,
)
from transfer.names import TO_TORCHVISION, TRUNK
from transfer.reading import is_converted

_TOP = "the top level"

State = dict[str, Any]


@dataclass(frozen=True)
class Backbone:
    """The backbone in a checkpoint, under torchvision's names, and how it was recognised."""

    method: Method | None  # None: the layout is clear, whose file it is is not
    candidates: tuple[str, ...]  # methods whose files look just so; empty: it may be anybody's
    reason: str
    network: str
    prefix: str
    entries: State
    dropped: Counter  # first component of all other keys, or other state dict -> how many


@dataclass(frozen=True)
class _Fit:
    row: Method | None
    layout: Layout
    container: str
    state: State
    marked: bool

    @property
    def place(self) -> tuple[str, str, str]:
        return self.container, self.prefix, self.layout.names

    @property
    def prefix(self) -> str:
        return next(iter(self.layout.networks))

    @property
    def markless(self) -> bool:
        return not (self.layout.marks or self.layout.beside)

    @property
    def own(self) -> bool:
        return self.container == (self.layout.container or _TOP)


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
    kind, version = checkpoint.get("kind"), checkpoint.get("format")
    if isinstance(kind, str) and kind == "clove_pretraining" and shown(version) != "1":
        raise CheckpointError(
            f"format {shown(version)} of a pretraining checkpoint, this version reads 1. Update "
            "the repository"
        )
    states = _state_dicts(checkpoint)
    rows = list(METHODS.values()) if method == "auto" else [method_row(method)]
    told = method != "auto"
    if prefix is not None:
        return _under_prefix(states, rows, checkpoint, told, prefix)
    fits = _best(_all_fits(rows, states, checkpoint, strict=not told)) or _best(
        _fits(rows[0] if told else None, DETECTRON2, states, checkpoint, strict=False)
    )
    if not fits:
        raise CheckpointError(_nothing_fits(rows, method, states))
    if len({fit.place for fit in fits}) > 1:
        places = ", ".join(f"{_name(fit)} in {shown(fit.container)}" for fit in fits)
        raise CheckpointError(
            f"{len(fits)} backbones fit ({places}). Choose by --method or --prefix"
        )
    backbone = _from_fits(fits, told, states)
    if told and not fits[0].marked:
        others = _all_fits(METHODS.values(), states, checkpoint, strict=True)
        names = " and ".join(dict.fromkeys(fit.row.name for fit in others if fit.marked))
        if names:
            return replace(backbone, reason=f"{backbone.reason}; but its keys are {names}'s")
    return backbone


def _best(fits: list[_Fit]) -> list[_Fit]:
    """Those that bear a method's marks, or else whose method leaves none, or else all.

    Of several places, those where the method keeps its backbone.
    """
    fits = [fit for fit in fits if fit.marked] or [fit for fit in fits if fit.markless] or fits
    if len({fit.place for fit in fits}) > 1:
        fits = [fit for fit in fits if fit.own] or fits
    return fits


def _from_fits(fits: list[_Fit], told: bool, states: dict[str, State]) -> Backbone:
    """``fits`` differ in nothing but whose file it may be."""
    fit, start = fits[0], fits[0].prefix
    rows = {row.name: row for row in (each.row for each in fits) if row is not None}
    row = next(iter(rows.values())) if len(rows) == 1 and (told or fit.marked) else None
    if told:
        reason = f"as told: {fit.layout.name}"
    elif row is not None:
        marks = (*fit.layout.marks, *fit.layout.beside, start.rstrip("."))
        holds = " and ".join(mark for mark in marks if mark)
        reason = f"recognised: {fit.layout.name}, {shown(fit.container)} holds {holds}"
    else:
        what = f"{start}*" if start else "a bare backbone"
        reason = f"{shown(fit.container)} holds {what}"
    entries = {
        key: key.removeprefix(start)
        for key in fit.state
        if key.startswith(start) and not _below(key, fit.layout.dropped)
    }
    twin = f"module.{start}"
    if _has_trunk(fit.state, twin, fit.layout.names):
        raise CheckpointError(
            f"two backbones in {shown(fit.container)}, under {start!r} and {twin!r}. Choose by "
            "--prefix"
        )
    names = TO_TORCHVISION[fit.layout.names]
    translated = {key: names(name) for key, name in entries.items()}
    network = fit.layout.networks[start]
    candidates = tuple(rows) if fit.markless else ()
    return _backbone(row, candidates, reason, network, start, translated, fit.container, states)


def _under_prefix(
    states: dict[str, State],
    rows: list[Method],
    checkpoint: Mapping[str, Any],
    told: bool,
    prefix: str,
) -> Backbone:
    """What was asked for by name, which may begin with the container's.

    Heads beside the trunk (``fc`` and the like) are left out.
    """
    start = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    found = []
    for container, state in states.items():
        for asked in (start, start.removeprefix(f"{container}.")):
            # The prefix as it stands before any other: `module.` may have been taken off all keys.
            name = asked if _has_trunk(state, asked) else asked.removeprefix("module.")
            if _has_trunk(state, name) and (container, name) not in [each[:2] for each in found]:
                found.append((container, name, state))
    if len(found) != 1:
        count = len(found) or "no"
        raise CheckpointError(f"{count} backbones under --prefix {prefix!r}. {_seen(states)}")
    container, start, state = found[0]
    row, network = (rows[0] if told else None), f"--prefix {prefix}"
    for candidate in rows:
        for layout in candidate.layouts:
            if start in layout.networks and _marked(layout, state, checkpoint):
                row, network = candidate, layout.networks[start]
    entries = {
        key: name
        for key in state
        if key.startswith(start) and TRUNK.match(name := key.removeprefix(start))
    }
    reason = f"--prefix {prefix} in {shown(container)}"
    return _backbone(row, (), reason, network, start, entries, container, states)


def _backbone(
    row: Method | None,
    candidates: tuple[str, ...],
    reason: str,
    network: str,
    prefix: str,
    translated: dict[str, str | None],
    container: str,
    states: dict[str, State],
) -> Backbone:
    """translated: key -> torchvision's name of the entry, None where it is no part of the trunk."""
    kept: dict[str, str] = {}
    for key, name in translated.items():
        if name in kept:
            raise CheckpointError(f"{shown(kept[name])} and {shown(key)} are the same entry")
        if name is not None:
            kept[name] = key
    state, taken = states[container], set(kept.values())
    dropped = Counter(
        "*_momentum" if key.endswith("_momentum") else key.split(".")[0]
        for key in state
        if key not in taken
    )
    dropped.update({other: len(states[other]) for other in states if other != container})
    entries = {name: state[key] for name, key in kept.items()}
    return Backbone(row, candidates, reason, network, prefix, entries, dropped)


def _state_dicts(checkpoint: Mapping[str, Any]) -> dict[str, State]:
    """State dicts at the top and one level down, less a ``module.`` that all their keys share."""
    states = {}
    for container, state in [(_TOP, checkpoint), *checkpoint.items()]:
        if (
            isinstance(container, str)
            and isinstance(state, Mapping)
            and all(isinstance(key, str) for key in state)
            and any(isinstance(value, (torch.Tensor, np.ndarray)) for value in state.values())
        ):
            if all(key.startswith("module.") for key in state):
                state = {key.removeprefix("module."): value for key, value in state.items()}
            states[container] = dict(state)
    return states


def _all_fits(
    rows: Iterable[Method], states: dict[str, State], checkpoint: Mapping[str, Any], strict: bool
) -> list[_Fit]:
    return [
        fit
        for row in rows
        for layout in row.layouts
        for fit in _fits(row, layout, states, checkpoint, strict)
    ]


def _fits(
    row: Method | None,
    layout: Layout,
    states: dict[str, State],
    checkpoint: Mapping[str, Any],
    strict: bool,
) -> list[_Fit]:
    """Where ``layout`` fits. strict: nothing may be there that the layout does not name."""
    start, *others = layout.networks
    names = TO_TORCHVISION[layout.names]
    known = (*(prefix.rstrip(".") for prefix in others), *layout.dropped)

    def named(key: str) -> bool:
        trunk = (names(key.removeprefix(start)) or "") if key.startswith(start) else ""
        return _below(key, known) or TRUNK.match(trunk) is not None

    return [
        _Fit(row, layout, container, state, _marked(layout, state, checkpoint))
        for container, state in states.items()
        if _has_trunk(state, start, layout.names)
        and (not strict or all(named(key) for key in state))
    ]


def _marked(layout: Layout, state: State, checkpoint: Mapping[str, Any]) -> bool:
    """Whether all that tells this layout from the others is there; False where nothing does."""
    return bool(layout.marks or layout.beside) and (
        all(any(_below(key, (mark,)) for key in state) for mark in layout.marks)
        and all(
            key in checkpoint and (value is None or shown(checkpoint[key]) == value)
            for key, value in layout.beside.items()
        )
    )


def _has_trunk(state: State, prefix: str, names: str = "torchvision") -> bool:
    translate = TO_TORCHVISION[names]
    return any(
        (translate(key.removeprefix(prefix)) or "").startswith(("layer1.", "conv1.weight"))
        for key in state
        if key.startswith(prefix)
    )


def _below(key: str, components: tuple[str, ...]) -> bool:
    """Whether ``key`` is one of ``components`` or below one, or ends as a ``*_component`` says."""
    return any(
        key.endswith(component[1:])
        if component.startswith("*")
        else key == component or key.startswith(f"{component}.")
        for component in components
    )


def _name(fit: _Fit) -> str:
    return f"{fit.row.name if fit.row else 'some method'}, {fit.layout.name}"


def _nothing_fits(rows: list[Method], method: str, states: dict[str, State]) -> str:
    prefixes = dict.fromkeys(repr(next(iter(k.networks))) for row in rows for k in row.layouts)
    knows = f"under {' or '.join(prefixes)}" if prefixes else rows[0].absent
    return (
        f"no backbone as method {method} knows it ({knows}). {_seen(states)}. "
        "Name one in torchvision's names by --prefix, or try another --method"
    )


def _seen(states: dict[str, State]) -> str:
    """What the file does hold, and where its backbones are."""
    if not states:
        return "It holds no state dict"
    parts = []
    end = "layer1.0.conv1.weight"
    for container, state in list(states.items())[:8]:
        counts = Counter(key.split(".")[0] for key in state).most_common()
        seen = ", ".join(f"{shown(component)} {count}" for component, count in counts[:8])
        prefixes = [f"'{shown(key.removesuffix(end))}'" for key in state if key.endswith(end)][:8]
        parts.append(
            f"{shown(container)}: {seen}{', …' if len(counts) > 8 else ''}"
            + (f" (backbones under {', '.join(prefixes)})" if prefixes else "")
        )
    return f"Seen in {'; '.join(parts)}"
