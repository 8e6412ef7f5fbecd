"""Maps and networks small enough to know what is measured of them and drawn."""

import torch
import torch.nn.functional as F

from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE

WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(noise(*shape, seed=seed), dim=-3)


def boxes(seed, *shape):
    """Of views that cover half of the image's width and height, every other one mirrored."""
    corners = torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed)) * 0.4
    of = torch.cat([corners, corners + 0.5], dim=-1)
    of[..., 1::2, :] = of[..., 1::2, [2, 1, 0, 3]]
    return of


def clove(heads=2):
    torch.manual_seed(0)
    return CLoVE(build_encoder("resnet18"), hidden=32, dim=16, heads=heads, num_negatives=3)
