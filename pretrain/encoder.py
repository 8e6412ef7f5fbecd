"""The encoder f: torchvision's ResNet up to C5."""

from collections import OrderedDict

import torch
import torchvision
from torch import nn

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
WITHOUT_BOTTLENECKS = (18, 34)  # depths
STAGES = ("stem", "res2", "res3", "res4", "res5")


class Encoder(nn.Sequential):
    """(B,3,S,S) → C5 (B,channels,ceil(S/stride),ceil(S/stride)); torchvision's names, no ``fc``."""

    stride = 32

    def __init__(self, resnet: torchvision.models.ResNet) -> None:
        *trunk, _, _ = resnet.named_children()  # all but the pooling and ``fc``, its last two
        super().__init__(OrderedDict(trunk))
        self.channels = resnet.fc.in_features

    def stages(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The maps after the stem (pooled) and after each of the four stages, as in STAGES."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = [stem]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return dict(zip(STAGES, maps, strict=True))


def build_encoder(arch: str = "resnet50", zero_last_gamma: bool = True) -> Encoder:
    """A ResNet trunk with He initialisation by fan-out.

    zero_last_gamma: every residual block starts as the identity, its last BN being zero
    (He et al., arXiv 1812.01187, section 3.1). Raises ValueError for an ``arch`` that is not in
    ARCHITECTURES.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"ENCODER.ARCH {arch!r} is not one of {', '.join(ARCHITECTURES)}")
    resnet = torchvision.models.get_model(arch, zero_init_residual=zero_last_gamma)
    encoder = Encoder(resnet)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):  # drawn again: the weights of a seed are to stay
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return encoder
