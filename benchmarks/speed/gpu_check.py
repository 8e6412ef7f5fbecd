"""``make gpu-check``: what the tests cannot show without GPUs, as a report to paste."""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.scenes.generate import Request, generate
from pretrain.config import get_cfg
from pretrain.runtime.config import merge
from pretrain.runtime.provenance import git_commit, hardware, packages
from pretrain.train import train


def main() -> int:
    """Run every check; exit code 0 when all pass or there is no GPU to check, 1 otherwise."""
    print(f"commit {git_commit()}\nhardware {hardware()}")
    print(" ".join(f"{name} {version}" for name, version in packages().items()))
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU here, so nothing was checked")
        return 0
    checks = [roi_align_equals_cpu, nms_equals_cpu, bf16_pretraining, fp16_compiled_pretraining]
    checks += [fine_tuning_iteration, *([nccl_sync_bn] if torch.cuda.device_count() > 1 else [])]
    passed = [report(check) for check in checks]
    print(f"gpu-check: {sum(passed)} of {len(passed)} passed; nccl_sync_bn needs two GPUs")
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


def bf16_pretraining() -> str:
    """The real loop at the paper's crop sizes: loader, monitors, checkpoint, resume."""
    return _pretrain("SOLVER.PRECISION bf16 MONITOR.PERIOD 2 MONITOR.IMAGES 8")


def fp16_compiled_pretraining() -> str:
    """The same in fp16 with its scaler, and with torch.compile where it works."""
    return _pretrain("SOLVER.PRECISION fp16 SOLVER.COMPILE True MONITOR.PERIOD 0")


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


def nccl_sync_bn() -> str:
    """SyncBN over two GPUs equals BN over the whole batch."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_sync_bn_rank, (folder,), nprocs=2)
    return "equal to BN over both halves"


def _sync_bn_rank(rank: int, folder: str) -> None:
    store, wait = f"file://{folder}/store", timedelta(seconds=120)
    dist.init_process_group("nccl", store, rank=rank, world_size=2, timeout=wait)
    torch.cuda.set_device(rank)
    torch.manual_seed(0)
    x = torch.randn(8, 4, 5, 5)
    expected = nn.BatchNorm2d(4)(x).chunk(2)[rank]
    actual = nn.SyncBatchNorm(4).cuda()(x.chunk(2)[rank].cuda()).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
