"""Our pretraining against ``benchmarks.speed.plain``: views, loss, teacher, LARS, a whole step."""

import copy
import io
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from benchmarks.speed import plain
from benchmarks.speed.compare import Row
from pretrain import photometry
from pretrain.augment import MultiCrop
from pretrain.config import get_cfg
from pretrain.data.multicrop import decode
from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE, multicrop_loss
from pretrain.optim import LARS, lars_param_groups

SIZE = (500, 375)  # of the image that the views are cut from, as most of ImageNet's
IMAGES = 16  # in one run of a row of views
UPDATES = 5  # of the teacher in one run
BATCH, STEP_BATCH, DIM = 64, 8, 256
MOMENTUM = 0.99


def view_rows() -> Iterator[Row]:
    """Images to views: all of it on a CPU, and what a loader's process does beside a GPU."""
    data = photograph()

    def by_pillow(crops: MultiCrop) -> Sequence[float]:
        kinds = crops.global_views + crops.local_views
        each = (plain.views(data, kinds, random.Random(n)) for n in range(IMAGES))
        return [sum(view.numel() for views in each for view in views)]

    def ours(crops: MultiCrop) -> Sequence[float]:
        numbers = 0
        for n in range(IMAGES):
            views = crops(decode(data), random.Random(n))
            for pixels in (views.global_crops, views.local_crops):
                done = photometry.normalize(pixels / 255) if crops.photometry else pixels
                numbers += done.numel()
        return [numbers]

    for name, on_cpu in (("views, all", True), ("views, loader", False)):
        inputs = partial(tuple, [MultiCrop(get_cfg().CROPS, on_cpu)])
        yield Row(name, "plain", inputs, ours, by_pillow, threads=1)


def loss_rows() -> Iterator[Row]:
    """The loss of the 14 pairs of 2 global and 6 local views, forward and backward."""

    def inputs() -> tuple:
        generator = torch.Generator().manual_seed(0)

        def maps(count: int, side: int) -> torch.Tensor:
            cells = torch.randn(count * BATCH, side, side, DIM, generator=generator)
            return F.normalize(cells, dim=3).permute(0, 3, 1, 2)  # as attention leaves them

        corners, sizes = torch.rand(2, 8, BATCH, 2, generator=generator)
        boxes = torch.cat([corners / 2, corners / 2 + 0.3 + 0.2 * sizes], dim=2)
        return maps(2, 7).requires_grad_(), maps(6, 3).requires_grad_(), maps(2, 7), boxes

    def run(loss: Callable, *maps: torch.Tensor) -> Sequence[float]:
        value = loss(*maps)
        gradients = torch.autograd.grad(value, maps[:2])
        return [value.item(), *(each.norm().item() for each in gradients)]

    ours = partial(run, lambda *maps: multicrop_loss(*maps)[0])
    yield Row("loss", "plain", inputs, ours, partial(run, plain.multicrop_loss), rtol=1e-5)


def optimizer_rows() -> Iterator[Row]:
    """The teacher's moving average, and the LARS step."""
    model = CLoVE(build_encoder())
    student = copy.deepcopy(model.student)

    def inputs() -> tuple:
        with torch.no_grad():
            for old, new in zip(model.teacher.parameters(), student.parameters(), strict=True):
                old.copy_(new + 0.01)
        return ()

    def update(way: Callable[[], None]) -> Sequence[float]:
        for _ in range(UPDATES):
            way()
        return norms(model.teacher)

    ours = partial(model.update_teacher, MOMENTUM)
    theirs = partial(plain.update_teacher, model.teacher, model.student, MOMENTUM)
    yield Row("teacher", "plain", inputs, partial(update, ours), partial(update, theirs), rtol=1e-6)

    def reset() -> tuple:
        model.student.load_state_dict(student.state_dict())
        for parameter in model.parameters():
            parameter.grad = parameter.detach() * 2 if parameter.requires_grad else None
        by_foreach = LARS(lars_param_groups(model, 2e-5), lr=0.1)
        by_hand = plain.LARS(model.parameters(), lr=0.1, weight_decay=2e-5)
        for group in by_foreach.param_groups:  # that the first step would make
            for parameter in group["params"]:
                by_foreach.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return by_foreach, by_hand

    def step(which: int, *optimizers) -> Sequence[float]:
        optimizers[which].step()
        return norms(model.student)

    yield Row("LARS", "plain", reset, partial(step, 0), partial(step, 1), rtol=1e-6)


def step_rows() -> Iterator[Row]:
    """A whole step of 2 x 224 px and 6 x 96 px: in bf16, and in fp32."""
    torch.manual_seed(0)
    baseline = plain.PlainCLoVE(build_encoder()).train()
    baseline.multicrop_loss = lambda *maps: (plain.multicrop_loss(*maps), {})
    by_hand = plain.LARS(baseline.parameters(), lr=0.1, weight_decay=2e-5)
    model = CLoVE(build_encoder()).to(memory_format=torch.channels_last).train()
    by_foreach = LARS(lars_param_groups(model, 2e-5), lr=0.1)
    boxes = torch.tensor([0.1, 0.1, 0.8, 0.9]).repeat(8, STEP_BATCH, 1)
    crops = torch.randn(2, STEP_BATCH, 3, 224, 224), torch.randn(6, STEP_BATCH, 3, 96, 96)

    def step(network: CLoVE, optimizer: LARS | plain.LARS, bf16: bool) -> Sequence[float]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(*crops, boxes, MOMENTUM)["loss"]
        loss.backward()
        optimizer.step()
        network.zero_grad()
        return []

    theirs = partial(step, baseline, by_hand, False)
    for name, bf16 in (("step, bf16", True), ("step, fp32", False)):
        yield Row(name, "plain fp32", tuple, partial(step, model, by_foreach, bf16), theirs)


def photograph() -> bytes:
    """A JPEG of 500 x 375 with the detail of a photograph: about 60 kB."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (25, 34, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=float)
    pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def norms(network: nn.Module) -> list[float]:
    """Of the first ten parameters."""
    return [float(parameter.detach().norm()) for parameter in list(network.parameters())[:10]]
