"""``-m tests.pretrain.traced_step [BATCH [PRECISION]]``: an optimizer step, traced.

Of two micro-steps, on fakes of CUDA, with ResNet-50 and the recipes' views, eager. Prints a line of
JSON: for each part of the second micro-step, and for the update, launches and GB; copies to the
device, and what the host waits for; the GB that are held before each part, and at most.
"""

import json
import os
import sys

from benchmarks.speed.gpu_check import random_batch, run_of
from pretrain.config import get_cfg
from pretrain.data.device import to_device
from tests.fake_cuda import CUDA, Trace, allow_backward, fake_cuda


def trace(size, precision):
    cfg = get_cfg()
    cfg.SOLVER.PRECISION = precision
    cfg.SOLVER.BATCH_SIZE_PER_GPU, cfg.SOLVER.TOTAL_BATCH_SIZE = size, 2 * size
    batch, held, traces = random_batch(cfg, size), {}, {}
    with fake_cuda() as device:
        run = run_of(cfg, CUDA)
        run.model.train()

        def part(name):
            device.sweep()
            device.trace = traces[name] = Trace()
            held[name] = device.sweep()

        for _ in range(2):  # the first one makes what later ones find
            for momentum in (None, 0.99):
                part("views")
                views = to_device(batch, CUDA, run.model.boxes, run.dtype)
                part("forward")
                with run.autocast():
                    outputs = run.model(*views, momentum)
                part("backward")
                run.scaler.scale(outputs["loss"] / 2).backward()
                del outputs
            part("update")
            run.update(1.0)
    gb = {name: sum(event.detail for event in of.launches) / 1e9 for name, of in traces.items()}
    return {
        "launches": {name: len(of.launches) for name, of in traces.items()},
        "gb": gb,
        "copies": sum(len(of.copies) for of in traces.values()),
        "syncs": sum(len(of.syncs) for of in traces.values()),
        "held": {name: bytes_ / 1e9 for name, bytes_ in held.items()},
        "peak": max(of.peak for of in traces.values()) / 1e9,
    }


if __name__ == "__main__":
    allow_backward()
    size, precision, *_ = *sys.argv[1:], *("256", "bf16")[len(sys.argv) - 1 :]
    print(json.dumps(trace(int(size), precision)), flush=True)
    os._exit(0)  # at its end torch would ask the hooks, which are gone by then
