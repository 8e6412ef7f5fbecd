"""``python -m benchmarks.speed step --profile DIR``: where the time of our step goes."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.speed_pretrain import MOMENTUM, step_inputs
from pretrain.methods.clove import CLoVE
from pretrain.optim import LARS

STEPS = 3  # profiled, after one that is not
STEP, OTHER = "step", "other"
STUDENT = ("student, globals", "student, locals")  # in the order of its calls in a step
PARTS = (
    *STUDENT,
    "attention, normalize",
    "teacher, update",
    "teacher, forward",
    "loss",
    "backward",
    "LARS",
)
OPERATORS = 10  # listed
LINE = "{:<36} {:>7} {:>9}"


def profile_step(folder: str | Path) -> dict[str, float]:
    """Print where our step's time goes, and write ``folder``/trace.json for ui.perfetto.dev.

    In bf16 on a CPU. Returns the share of each of PARTS and of OTHER, in all 1. The profiler's own
    time is in them, most where operators are many and small.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # to it, a machine without a GPU is an error
    torch.manual_seed(0)
    model, optimizer, views = step_inputs()
    label_parts(model)
    step(model, optimizer, views)  # LARS makes its buffers
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step(model, optimizer, views)
    print(f"step, bf16, {views[0].shape[1]} images, mean of {STEPS}")
    events = {event.key: event for event in profiler.key_averages()}
    shares = print_parts(events)
    print_operators(events)
    print(f"trace of the {STEPS} steps: {write_trace(profiler, Path(folder))}")
    return shares


def step(model: CLoVE, optimizer: LARS, views: Sequence[torch.Tensor]) -> None:
    """One step, labelled where ``label_parts`` cannot reach."""
    with record_function(STEP):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*views, MOMENTUM)["loss"]
        with record_function("backward"):
            loss.backward()
        with record_function("LARS"):
            optimizer.step()
        model.zero_grad()


def label_parts(model: CLoVE) -> None:
    """Have the profiler know what belongs to which part of ``model``'s forward pass."""
    label(model.student, "forward", *STUDENT)
    label(model, "contextualize", "attention, normalize")
    label(model, "update_teacher", "teacher, update")
    label(model.teacher, "forward", "teacher, forward")
    label(model, "multicrop_loss", "loss")


def label(owner: Any, function: str, *names: str) -> None:
    """Run ``owner``'s function under the ``names``, one for each call, in turn."""
    original, turn = getattr(owner, function), itertools.cycle(names)

    def labelled(*args, **kwargs):
        with record_function(next(turn)):
            return original(*args, **kwargs)

    setattr(owner, function, labelled)


def print_parts(events: Mapping[str, Any]) -> dict[str, float]:
    """A line for each part, in the order of the step; returns their shares of it."""
    whole = events[STEP].cpu_time_total  # microseconds, of all steps
    parts = {name: events[name].cpu_time_total for name in PARTS}
    parts[OTHER] = whole - sum(parts.values())
    print(LINE.format("part", "share", "ms"))
    for name, time in parts.items():
        print(line(name, time, whole))
    return {name: time / whole for name, time in parts.items()}


def print_operators(events: Mapping[str, Any]) -> None:
    """Those that took most time, without what they called."""
    operators = [event for event in events.values() if not event.is_user_annotation]
    operators.sort(key=lambda event: event.self_cpu_time_total, reverse=True)
    print(LINE.format("operator", "share", "ms"))
    for event in operators[:OPERATORS]:
        print(line(event.key, event.self_cpu_time_total, events[STEP].cpu_time_total))


def line(name: str, time: float, whole: float) -> str:
    """Share and milliseconds of one step; the arguments are of all."""
    return LINE.format(name, f"{time / whole:.1%}", f"{time / STEPS / 1e3:.1f}")


def write_trace(profiler: profile, folder: Path) -> Path:
    """``folder``/trace.json: the old one or the whole new one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary, path = folder / ".trace.json", folder / "trace.json"
    profiler.export_chrome_trace(str(temporary))
    os.replace(temporary, path)
    return path
