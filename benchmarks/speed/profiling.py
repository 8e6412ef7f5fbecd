"""``python -m benchmarks.speed step --profile DIR``: where the time of our step goes."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.speed.pretraining import MOMENTUM, step_inputs
from pretrain.methods.clove import CLoVE
from pretrain.optim import LARS

STEPS = 3  # profiled, after one that is not
STUDENT = ("student, globals", "student, locals")  # in the order of its calls in a step
ROWS = 30  # of the table: parts and operators, those that took most time first


def profile_step(folder: str | Path) -> str:
    """The table of our step in bf16 on a CPU; writes ``folder``/trace.json for ui.perfetto.dev.

    Parts of the step stand in it beside PyTorch's operators: by CPU total. The profiler's own time
    is in them, most where operators are many and small.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # to it, a machine without a GPU is an error
    torch.manual_seed(0)
    model, optimizer, views = step_inputs()
    label(model.student, "forward", *STUDENT)
    label(model, "contextualize", "attention, normalize")
    label(model, "update_teacher", "teacher, update")
    label(model.teacher, "forward", "teacher, forward")
    label(model, "multicrop_loss", "loss")
    step(model, optimizer, views)  # LARS makes its buffers
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step(model, optimizer, views)
    trace = Path(folder, "trace.json")
    trace.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(trace))
    table = profiler.key_averages().table(sort_by="cpu_time_total", row_limit=ROWS)
    return f"step, bf16, {views[0].shape[1]} images, {STEPS} times\n{table}\ntrace: {trace}"


def step(model: CLoVE, optimizer: LARS, views: Sequence[torch.Tensor]) -> None:
    """One step, labelled where ``label`` cannot reach."""
    with record_function("step"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*views, MOMENTUM)["loss"]
        with record_function("backward"):
            loss.backward()
        with record_function("LARS"):
            optimizer.step()
        model.zero_grad()


def label(owner: Any, function: str, *names: str) -> None:
    """Run ``owner``'s function under the ``names``, one for each call, in turn."""
    original, turn = getattr(owner, function), itertools.cycle(names)

    def labelled(*args, **kwargs):
        with record_function(next(turn)):
            return original(*args, **kwargs)

    setattr(owner, function, labelled)
