"""``make gpu-check``: what the tests cannot show without GPUs, as a report to paste."""

import itertools
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import nn

from benchmarks.scenes.generate import Request, generate
from benchmarks.speed.cost import expected, load_cost
from pretrain import photometry
from pretrain.augment import MultiCrop
from pretrain.config import get_cfg
from pretrain.data import Batch
from pretrain.data.device import on_device
from pretrain.encoder import build_encoder
from pretrain.methods import complete
from pretrain.methods.clove import CLoVE
from pretrain.run import Plan, Run
from pretrain.runtime.config import merge
from pretrain.runtime.distributed import OverAllRanks
from pretrain.runtime.provenance import git_commit, hardware, packages
from pretrain.train import compile_parts, compiled, distribute, train

STEADY_STEPS = 10


def main() -> int:
    """Run every check; exit code 0 when all pass or there is no GPU to check, 1 otherwise."""
    print(f"commit {git_commit()}\nhardware {hardware()}")
    print(" ".join(f"{name} {version}" for name, version in packages().items()))
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU here, so nothing was checked")
        return 0
    checks = [roi_align_equals_cpu, nms_equals_cpu, photometry_equals_cpu, sync_bn_equals_bn]
    checks += [eager_step, compiled_step, bf16_pretraining, fp16_pretraining, fine_tuning_iteration]
    checks += [two_gpus_equal_one] if torch.cuda.device_count() > 1 else []
    passed = [report(check) for check in checks]
    print(f"gpu-check: {sum(passed)} of {len(passed)} passed; two_gpus_equal_one needs two GPUs")
    return 0 if all(passed) else 1


def report(check: Callable[[], str]) -> bool:
    """Run one check and print its line."""
    start = time.perf_counter()
    try:
        line = f"ok   {check.__name__}: {check()}"
    except Exception as error:  # the report goes on, whatever fails
        line = f"FAIL {check.__name__}: {type(error).__name__}: {error}"
    print(f"{line} ({time.perf_counter() - start:.1f} s)", flush=True)
    return line.startswith("ok")


def roi_align_equals_cpu() -> str:
    """Detectron2's ROIAlign gives the same values and gradients on both devices."""
    from detectron2.layers import ROIAlign

    torch.manual_seed(0)
    features = torch.randn(2, 8, 32, 32)
    corners = torch.rand(64, 2, 2).sort(dim=1).values.flatten(1) * 120
    boxes = torch.cat([torch.randint(2, (64, 1)).float(), corners], dim=1)
    results = []
    for device in ("cpu", "cuda"):
        x = features.to(device).requires_grad_()
        pooled = ROIAlign((7, 7), 0.25, 0, aligned=True)(x, boxes.to(device))
        pooled.square().sum().backward()
        results.append((pooled.detach().cpu(), x.grad.cpu()))
    differences = [(a - b).abs().max().item() for a, b in zip(*results, strict=True)]
    assert max(differences) < 1e-3, differences
    return f"largest difference {differences[0]:.1e}, of gradients {differences[1]:.1e}"


def nms_equals_cpu() -> str:
    """Detectron2's class-wise NMS keeps the same boxes in the same order."""
    from detectron2.layers import batched_nms

    torch.manual_seed(0)
    boxes = torch.rand(2000, 2, 2).sort(dim=1).values.flatten(1) * 200
    scores, classes = torch.rand(2000), torch.randint(5, (2000,))
    on_cpu = batched_nms(boxes, scores, classes, 0.5)
    on_gpu = batched_nms(boxes.cuda(), scores.cuda(), classes.cuda(), 0.5).cpu()
    assert torch.equal(on_cpu, on_gpu)
    return f"{len(on_cpu)} of 2000 boxes kept by both"


def photometry_equals_cpu() -> str:
    """Changes of colour give the same pixels on both devices; TF32 rounds the blur."""
    cfg = get_cfg()
    batch = random_batch(cfg, 4)
    pixels, numbers = batch.local_crops.flatten(0, 1), batch.photometry[2:].flatten(0, 1)
    difference = photometry.apply(pixels.cuda(), numbers.cuda()).cpu()
    difference -= photometry.apply(pixels, numbers)
    assert difference.abs().max() < 2 / 255, difference.abs().max()
    return f"largest difference {difference.abs().max().item():.1e}"


def sync_bn_equals_bn() -> str:
    """The kernels that BN over several GPUs uses, alone: values, gradients, statistics."""
    torch.manual_seed(0)
    x = (torch.randn(8, 16, 7, 7) + 10).cuda().contiguous(memory_format=torch.channels_last)
    bn, gradient, results = nn.BatchNorm2d(16).cuda(), torch.randn_like(x), []
    for way in (bn, lambda x: OverAllRanks.apply(x, bn.weight, bn.bias, bn.eps)[0]):
        inputs = x.clone().requires_grad_()
        output = way(inputs)
        results.append([output, *torch.autograd.grad(output, [inputs, *bn.parameters()], gradient)])
    for found, expected_ in zip(*results, strict=True):
        torch.testing.assert_close(found, expected_, rtol=1e-3, atol=1e-3)
    return "equal to nn.BatchNorm2d"


def eager_step() -> str:
    """Images/s and memory of a steady step of 256 images in bf16, in which nothing waits."""
    return _steady_step("SOLVER.COMPILE False", "eager")


def compiled_step() -> str:
    """The same, compiled."""
    return _steady_step("SOLVER.COMPILE True", "compiled")


def random_batch(cfg: CfgNode, size: int) -> Batch:
    """What the loader gives: views of ``size`` images, without what is in them."""
    crops, rng = MultiCrop(cfg.CROPS), random.Random(0)
    views = crops.global_views + crops.local_views
    numbers = [[photometry.draw(view, rng) for _ in range(size)] for view in views]

    def pixels(count: int, side: int) -> torch.Tensor:
        pixels = torch.randint(256, (count, size, side, side, 3), dtype=torch.uint8)
        return pixels.permute(0, 1, 4, 2, 3)

    return Batch(
        pixels(2, cfg.CROPS.GLOBAL_SIZE),
        pixels(cfg.CROPS.NUM_LOCALS, cfg.CROPS.LOCAL_SIZE),
        torch.tensor([10, 10, 200, 200, 300, 300, 0]).expand(len(views), size, 7).contiguous(),
        torch.tensor(numbers),
        list(range(size)),
        [],
    )


def run_of(cfg: CfgNode, device: torch.device) -> Run:
    """A run of ``cfg`` on as many images as ImageNet has, which nobody reads."""
    images = SimpleNamespace(root="", sha256=lambda: "")
    run = Run(complete(cfg), Plan(cfg, 1281167, 1), SimpleNamespace(images=images), device)
    run.model.train()
    return run


class _Failing(logging.Handler):
    """A warning, as of a part that cannot be compiled, is a failure here."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def _steady_step(settings: str, way: str) -> str:
    cfg = get_cfg()
    size = cfg.SOLVER.BATCH_SIZE_PER_GPU
    merge(cfg, None, f"SOLVER.PRECISION bf16 SOLVER.TOTAL_BATCH_SIZE {size} {settings}".split())
    run, prepare = run_of(cfg, torch.device("cuda", 0)), photometry.prepare
    if cfg.SOLVER.COMPILE:
        logger = logging.getLogger(__name__)
        logger.addHandler(_Failing())
        compile_parts(run.model, logger)
        prepare = compiled(prepare, logger)
    batch = random_batch(cfg, size)
    batch = Batch(*(part.pin_memory() if torch.is_tensor(part) else part for part in batch))

    def steps(count: int) -> None:
        batches = itertools.repeat(batch, count)
        for views, _ in on_device(batches, run.device, run.model.boxes, run.dtype, prepare):
            with run.autocast():
                loss = run.model(*views, 0.99)["loss"]
            loss.backward()
            run.update(0.1)

    steps(3)
    torch.cuda.synchronize()
    start = time.perf_counter()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(STEADY_STEPS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    rate = STEADY_STEPS * size / (time.perf_counter() - start)
    name, cost = torch.cuda.get_device_name(), load_cost()
    rates = [expected(gpu, cost)[way] for kind, gpu in cost["gpus"].items() if kind in name]
    told = f"COST.md expects {rates[0]:.0f}" if rates else f"COST.md does not know {name}"
    return f"{rate:.0f} images/s ({told}), {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"


def bf16_pretraining() -> str:
    """The real loop at the paper's crop sizes: loader, monitors, checkpoint, resume."""
    return _pretrain("SOLVER.PRECISION bf16 MONITOR.PERIOD 2 MONITOR.IMAGES 8")


def fp16_pretraining() -> str:
    """The same in fp16 with its scaler, eager."""
    return _pretrain("SOLVER.PRECISION fp16 SOLVER.COMPILE False MONITOR.PERIOD 0")


def _pretrain(settings: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "scenes"), Request(16, 0, 0, 192, seed=0))
        cfg = get_cfg()
        overrides = (
            f"DATA.ROOT {folder}/scenes/coco/unlabeled2017 OUTPUT_DIR {folder}/run DEVICE cuda "
            "SOLVER.BATCH_SIZE_PER_GPU 4 SOLVER.TOTAL_BATCH_SIZE 8 SOLVER.EPOCHS 2 "
            f"SOLVER.WARMUP_EPOCHS 0 LOG.PERIOD 1 DATA.NUM_WORKERS 2 {settings}"
        )
        merge(cfg, None, overrides.split())
        last = train(cfg)
        lines = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert all(94 < loss < 106 for loss in losses), losses
        last.unlink()
        assert train(cfg, resume=True) == last
    return f"losses {losses}, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def fine_tuning_iteration() -> str:
    """Two iterations on scenes through the ordinary command, in bf16 and in fp16."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "scenes"), Request(1, 24, 10, 128, seed=0))
        os.environ["DETECTRON2_DATASETS"] = f"{folder}/scenes"
        from transfer.__main__ import main as fine_tune

        for task, dtype in itertools.product(("coco_fpn", "densepose_fpn"), ("bf16", "fp16")):
            code = fine_tune(
                f"--task {task} --weights random --output {folder}/{task}_{dtype} "
                f"--overlay configs/transfer/Base-scenes.yaml TRANSFER.AMP_DTYPE {dtype} "
                "SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) TEST.PRECISE_BN.NUM_ITER 1".split()
            )
            assert code == 0, f"{task} in {dtype}: exit code {code}"
    return "coco_fpn and densepose_fpn: trained, evaluated, metrics.json written"


def two_gpus_equal_one() -> str:
    """A step of two GPUs has the gradients of one GPU with the whole batch."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_as_rank, (folder,), nprocs=2)
    return "gradients equal"


def _as_rank(rank: int, folder: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    torch.manual_seed(0)
    model = CLoVE(build_encoder("resnet18", zero_last_gamma=False), hidden=64, dim=16, heads=2)
    model = model.to(device, memory_format=torch.channels_last).train()
    crops = torch.randn(2, 4, 3, 128, 128, device=device), torch.zeros(0, 4, 3, 0, 0, device=device)
    boxes = torch.tensor([0.1, 0.1, 0.8, 0.9], device=device).repeat(2, 4, 1)
    model(*crops, boxes)["loss"].backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected_ = [parameter.grad.clone() for parameter in trained]
    store, wait = f"file://{folder}/store", timedelta(seconds=120)
    dist.init_process_group("nccl", store, rank=rank, world_size=2, timeout=wait)
    model.zero_grad()
    halves = [each.chunk(2, dim=1)[rank] for each in (*crops, boxes)]
    distribute(model, device)(*halves)["loss"].backward()
    for parameter, gradient in zip(trained, expected_, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-2, atol=1e-4)
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
