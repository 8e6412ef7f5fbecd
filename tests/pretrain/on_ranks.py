"""A tiny pretraining in float64.

``[torchrun] -m tests.pretrain.on_ranks IMAGES OUT [drift]``: always 4 images per micro-step, 8 per
step. Rank 0 leaves the first step's gradients in OUT/gradients.pth and the number of reductions in
OUT/reductions. ``drift``: rank 1 changes a weight.
"""

import os
import sys
from pathlib import Path

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import pretrain.run
import pretrain.train
from pretrain.__main__ import main
from pretrain.optim import LARS
from pretrain.runtime import distributed
from tests.pretrain.tiny import CONFIG, words

build_model, step, distribute = pretrain.run.build_model, LARS.step, pretrain.train.distribute


def build(cfg):
    model = build_model(cfg)
    model.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].double(), inputs[1].double(), *inputs[2:])
    )
    return model.double()


def step_and_keep(self):
    out = Path(sys.argv[2])
    gradients = [p.grad for group in self.param_groups for p in group["params"]]
    if distributed.rank() == 0 and not (out / "gradients.pth").exists():
        out.mkdir(parents=True, exist_ok=True)
        torch.save(gradients, out / "gradients.pth")
    step(self)
    if distributed.rank() == 1 and "drift" in sys.argv:
        self.param_groups[0]["params"][0].data[0, 0, 0, 0] += 1e-6


def distribute_and_count(model, device):
    model = distribute(model, device)
    if distributed.world_size() > 1:
        model.register_comm_hook(None, reduce_and_count)
    return model


def reduce_and_count(_, bucket):
    if bucket.is_last() and distributed.rank() == 0:
        with open(Path(sys.argv[2], "reductions"), "a") as file:
            file.write("x")
    return allreduce_hook(None, bucket)


if __name__ == "__main__":
    pretrain.run.build_model, LARS.step = build, step_and_keep
    pretrain.train.distribute = distribute_and_count
    images, out = map(Path, sys.argv[1:3])
    sizes = {
        "SOLVER__BATCH_SIZE_PER_GPU": 4 // int(os.environ.get("WORLD_SIZE", 1)),
        "SOLVER__TOTAL_BATCH_SIZE": 8,
    }
    sys.exit(main(["--config-file", CONFIG, *words(images, out, **sizes)]))
