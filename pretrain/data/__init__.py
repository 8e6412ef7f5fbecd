"""Image sources and the order in which a run reads them."""

import signal

import torch
from fvcore.common.config import CfgNode

from pretrain.augment import MultiCrop
from pretrain.data.folder import DataError as DataError
from pretrain.data.multicrop import Batch as Batch
from pretrain.data.multicrop import MultiCropImages, collate
from pretrain.data.sampler import PositionSampler
from pretrain.data.shards import open_images
from pretrain.runtime import distributed
from pretrain.runtime.config import REPOSITORY
from pretrain.runtime.interrupt import InterruptFlag


def build_data(cfg: CfgNode, device: torch.device) -> MultiCropImages:
    """The images of DATA.ROOT, cut as CROPS says. Raises DataError where there are none.

    A GPU changes the colours of whole batches; on a CPU the loader's processes do it.
    """
    crops = MultiCrop(cfg.CROPS, photometry=device.type == "cpu")
    return MultiCropImages(open_images(REPOSITORY / cfg.DATA.ROOT), crops, cfg.SEED)


def ignore_signals(_: int) -> None:
    """In a loader process: a signal to the whole process group is the main process's to answer."""
    for number in InterruptFlag.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def build_loader(
    cfg: CfgNode, data: MultiCropImages, start: int, device: torch.device
) -> torch.utils.data.DataLoader:
    """This rank's micro-batches from micro-step ``start`` to the run's last one."""
    batch_size, epochs = cfg.SOLVER.BATCH_SIZE_PER_GPU, cfg.SOLVER.EPOCHS
    rank, ranks = distributed.rank(), distributed.world_size()
    sampler = PositionSampler(len(data), batch_size, epochs, cfg.SEED, rank, ranks, start)
    return torch.utils.data.DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=cfg.DATA.NUM_WORKERS,
        collate_fn=collate,
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
    )
