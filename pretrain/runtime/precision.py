"""What autocast computes in, on a processor that may lack bf16."""

import functools
import logging

import torch


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether convolutions in bf16 have a fast path on this processor: AVX-512, or Arm's bf16.

    Without it, ResNet-50 took 12 times as long in bf16 as in fp32, forward and backward.
    """
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast_dtype(
    asked: torch.dtype | None, device_type: str, logger: logging.Logger
) -> torch.dtype | None:
    """``asked``, or None (fp32), and a warning, for bf16 on a CPU that has none."""
    if asked is not torch.bfloat16 or device_type != "cpu" or cpu_has_bf16():
        return asked
    logger.warning(
        "bf16 was asked for, but this processor has none and would take many times as long with it "
        "as in fp32: computing in fp32. The numbers are not those of bf16 to the last digit"
    )
    return None
