"""Image sources and the order in which a run reads them."""

import signal

import torch
from fvcore.common.config import CfgNode

from pretrain.augment import MultiCrop
from pretrain.data.folder import Batch, DataError, MultiCropFolder, collate
from pretrain.data.sampler import PositionSampler
from pretrain.runtime import distributed
from pretrain.runtime.config import REPOSITORY
from pretrain.runtime.interrupt import InterruptFlag

__all__ = [
    "Batch",
    "DataError",
    "MultiCropFolder",
    "PositionSampler",
    "build_crops",
    "build_data",
    "build_loader",
]


def build_data(cfg: CfgNode, device: torch.device) -> MultiCropFolder:
    """The images below DATA.ROOT, cut as CROPS says. Raises DataError without any image.

    A GPU changes the colours of whole batches; on a CPU the loader's processes do it.
    """
    crops = build_crops(cfg, photometry=device.type == "cpu")
    return MultiCropFolder(REPOSITORY / cfg.DATA.ROOT, crops, cfg.SEED)


def build_crops(cfg: CfgNode, photometry: bool) -> MultiCrop:
    """The views that CROPS describes."""
    return MultiCrop(
        cfg.CROPS.GLOBAL_SIZE,
        tuple(cfg.CROPS.GLOBAL_AREA),
        cfg.CROPS.NUM_LOCALS,
        cfg.CROPS.LOCAL_SIZE,
        tuple(cfg.CROPS.LOCAL_AREA),
        photometry,
    )


def ignore_signals(_: int) -> None:
    """In a loader process: a signal to the whole process group is the main process's to answer."""
    for number in InterruptFlag.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def build_loader(
    cfg: CfgNode, data: MultiCropFolder, start: int, device: torch.device
) -> torch.utils.data.DataLoader:
    """This rank's micro-batches from micro-step ``start`` to the run's last one."""
    sampler = PositionSampler(
        len(data),
        cfg.SOLVER.BATCH_SIZE_PER_GPU,
        cfg.SOLVER.EPOCHS,
        cfg.SEED,
        distributed.rank(),
        distributed.world_size(),
        start,
    )
    return torch.utils.data.DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=cfg.DATA.NUM_WORKERS,
        collate_fn=collate,
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
    )
