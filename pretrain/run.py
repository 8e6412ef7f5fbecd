"""A run: what it does at which micro-step, and what a checkpoint holds of it."""

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from pretrain.config import NOT_HASHED, get_cfg
from pretrain.data import MultiCropImages
from pretrain.data.sampler import epoch_length
from pretrain.methods import build_model
from pretrain.optim import build_optimizer, lr_schedule, teacher_momentum_schedule
from pretrain.runtime import checkpoints, distributed
from pretrain.runtime.checkpoints import CheckpointError
from pretrain.runtime.config import REPOSITORY, ConfigError, flatten, is_within, plain
from pretrain.runtime.distributed import autocast_dtype
from pretrain.runtime.provenance import provenance

# Without them a checkpoint's weights and position mean something else
FIXED = ("METHOD", "ENCODER", "SOLVER.BATCH_SIZE_PER_GPU")
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
logger = logging.getLogger(__name__)


class Plan:
    """What a run does at micro-step t, counted from 0 over all epochs."""

    def __init__(self, cfg: CfgNode, num_images: int, world_size: int) -> None:
        solver = cfg.SOLVER
        self.total_batch_size = solver.TOTAL_BATCH_SIZE
        self.accumulation = accumulation(
            solver.TOTAL_BATCH_SIZE, solver.BATCH_SIZE_PER_GPU, world_size
        )
        self.length = epoch_length(num_images, solver.BATCH_SIZE_PER_GPU, world_size)
        self.total = solver.EPOCHS * self.length
        self.checkpoint_epochs = cfg.CHECKPOINT.PERIOD_EPOCHS
        self.images_per_micro_step = solver.BATCH_SIZE_PER_GPU * world_size
        self.lr = lr_schedule(solver, self.length, self.total_batch_size)
        self.teacher_momentum = teacher_momentum_schedule(solver, self.length)
        self.total_steps = solver.EPOCHS * -(-self.length // self.accumulation)

    def ends_group(self, micro_step: int) -> bool:
        """Whether the optimizer steps: after ``accumulation`` micro-steps or at the epoch's end."""
        i = micro_step % self.length + 1
        return i % self.accumulation == 0 or i == self.length

    def saves(self, micro_step: int) -> bool:
        """Whether a checkpoint is due: every CHECKPOINT.PERIOD_EPOCHS, and at the end."""
        done = micro_step + 1
        return done % (self.checkpoint_epochs * self.length) == 0 or done == self.total


def accumulation(total: int, batch_size: int, world_size: int) -> int:
    """Micro-steps that make ``total`` images of ``batch_size`` on each of ``world_size`` processes.

    Raises ConfigError with the batch sizes that do.
    """
    if total % (batch_size * world_size) == 0:
        return total // (batch_size * world_size)
    fitting = [size for size in range(1, total + 1) if total % (size * world_size) == 0]
    raise ConfigError(
        f"SOLVER.TOTAL_BATCH_SIZE {total} is no multiple of {batch_size} images on {world_size} "
        f"processes: choose SOLVER.BATCH_SIZE_PER_GPU of {', '.join(map(str, fitting)) or 'none'}, "
        "another number of processes or another SOLVER.TOTAL_BATCH_SIZE, which changes the "
        "learning rate"
    )


class Run:
    """Model, optimizer, position: what a checkpoint holds."""

    def __init__(
        self, cfg: CfgNode, plan: Plan, data: MultiCropImages, device: torch.device
    ) -> None:
        self.cfg, self.plan, self.device = cfg, plan, device
        self.images, self.data_sha256 = data.images, data.images.sha256()
        self.folder = REPOSITORY / cfg.OUTPUT_DIR
        self.model = build_model(cfg).to(device)
        solver = cfg.SOLVER
        self._autocast = autocast_dtype(AUTOCAST[solver.PRECISION], device.type, logger)
        self.optimizer = build_optimizer(self.model, solver)
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # strides as the parameter's: both are updated as lists
                parameter.grad = torch.zeros_like(parameter)
        self.scaler = torch.amp.GradScaler(device.type, enabled=solver.PRECISION == "fp16")
        self.step = 0  # optimizer steps done
        self.micro_step = 0  # micro-steps done

    @property
    def epoch(self) -> float:
        """Epochs completed."""
        return self.micro_step / self.plan.length

    @property
    def dtype(self) -> torch.dtype:
        """In which the model's layers compute."""
        return self._autocast or torch.float32

    def autocast(self) -> torch.autocast:
        """In which the model runs; its loss stays in float32."""
        return torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None)

    def update(self, lr: float) -> torch.Tensor:
        """The optimizer's step; () bool on the device, whether all gradients were finite.

        It is made in any case, so that the host need not wait: the loop stops before anything
        of it is saved. In fp16 the scaler leaves it out where a gradient overflowed.
        """
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.requires_grad]
        finite = torch.stack(torch._foreach_norm(gradients)).isfinite().all()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        torch._foreach_zero_(gradients)
        return finite

    def save(self) -> Path | None:
        """Write a checkpoint on rank 0. Raises CheckpointError unless all ranks hold the same."""
        self.require_same_parameters()
        if distributed.rank() != 0:
            return None
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "micro_step": self.micro_step,
            "epoch": self.epoch,
            "images_seen": self.micro_step * self.plan.images_per_micro_step,
            "world_size": distributed.world_size(),
            "data_sha256": self.data_sha256,
            "config": plain(self.cfg),
            "export": self.model.exported,
            "provenance": provenance(),
            "rng": torch.get_rng_state(),
        }
        return checkpoints.save(self.folder, self.step, content, self.cfg.CHECKPOINT.KEEP)

    def require_same_parameters(self) -> None:
        """Raise CheckpointError on all ranks when student or teacher differ between them."""
        if distributed.world_size() == 1:
            return
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().contiguous().cpu().numpy())
        digests = distributed.all_gather(digest.hexdigest())
        if others := [rank for rank, each in enumerate(digests) if each != digests[0]]:
            raise CheckpointError(
                f"{self.folder}: at step {self.step} the parameters on ranks "
                f"{', '.join(map(str, others))} are not those of rank 0; nothing was saved. "
                "--resume goes on from the last checkpoint; if it happens again, look at these "
                "ranks' GPUs"
            )

    def restore(self, content: dict[str, Any], allowed: Collection[str] = ()) -> None:
        """Take up a checkpoint.

        Raises ConfigError when the images, the ranks or the config have changed, the latter but
        for the keys ``allowed`` and those that do not change the numbers. FIXED never may.
        """
        # A key that is newer than the checkpoint had its default in effect
        old = flatten(plain(get_cfg())) | flatten(content["config"])
        new = flatten(plain(self.cfg))
        changed = [
            key
            for key in sorted(old | new)
            if old.get(key) != new.get(key)
            and not is_within(key, NOT_HASHED)
            and (not is_within(key, allowed) or is_within(key, FIXED))
        ]
        if changed:
            changes = ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed)
            raise ConfigError(
                f"{self.folder}: cannot resume with another config ({changes}); restore the "
                "values, go on nevertheless with --allow-changed KEY, or choose another "
                f"OUTPUT_DIR. {', '.join(FIXED)} may never change"
            )
        if content["world_size"] != distributed.world_size():
            raise ConfigError(
                f"{self.folder}: was trained on {content['world_size']} processes, not "
                f"{distributed.world_size()}; start as many"
            )
        if content["data_sha256"] != self.data_sha256:
            raise ConfigError(
                f"{self.folder}: the list of images below DATA.ROOT has changed since the run "
                "began; restore it or choose another OUTPUT_DIR"
            )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content.get("scaler"):  # nothing where the run was not in fp16
            self.scaler.load_state_dict(content["scaler"])
        torch.set_rng_state(content["rng"])
        self.step, self.micro_step = content["step"], content["micro_step"]
