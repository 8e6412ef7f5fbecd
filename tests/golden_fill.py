"""Deterministic tensors and images for the golden files: the formula of their origin, in numpy.

Every value comes from a 32-bit integer hash of a seed and an element index; the seed is the CRC-32
of a name. Values are computed in float64 and rounded to float32.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np


def seed_of(text: str) -> int:
    """CRC-32 of ``text`` in UTF-8."""
    return zlib.crc32(text.encode())


def values(seed: int, count: int) -> np.ndarray:
    """``count`` float64 numbers in (-1, 1) from an unsigned 32-bit hash of (seed, index)."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return 2 * ((x + 0.5) / 2**32) - 1


def fill(
    name: str, shape: Sequence[int], salt: str = "", trained_statistics: bool = False
) -> np.ndarray:
    """The tensor called ``name`` (``encoder.conv1.weight``; no ``module.`` before it).

    trained_statistics: BN running statistics other than 0 and 1, as in ``model_backbone_eval``.
    """
    shape = tuple(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    v = values(seed_of(name + salt), math.prod(shape)).reshape(shape)
    if len(shape) >= 2:
        v = v * math.sqrt(6 / math.prod(shape[1:]))
    elif name.endswith("running_mean"):
        v = 0.1 * v if trained_statistics else np.zeros(shape)
    elif name.endswith("running_var"):
        v = 1 + 0.25 * v if trained_statistics else np.ones(shape)
    elif name.endswith("weight"):
        v = 1 + 0.25 * v
    elif name.endswith("bias"):
        v = 0.1 * v
    else:
        raise ValueError(f"{name} {shape}: the formula has no rule for this tensor")
    return v.astype(np.float32)


def image(tag: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """The image (or batch of images) called ``tag``, zero mean and unit variance, float32."""
    v = values(seed_of(f"image:{tag}{salt}"), math.prod(shape))
    return (math.sqrt(3) * v).reshape(tuple(shape)).astype(np.float32)


def probe(key: str, count: int) -> np.ndarray:
    """The float64 vector whose dot product with tensor ``key`` the golden files store."""
    return values(seed_of(f"probe:{key}"), count)
