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
        trunk = [(name, part) for name, part in resnet.named_children() if "layer" in name]
        super().__init__(
            OrderedDict(
                conv1=resnet.conv1,
                bn1=resnet.bn1,
                relu=resnet.relu,
                maxpool=resnet.maxpool,
                **dict(trunk),
            )
        )
        self.channels = resnet.fc.in_features

    def stages(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The maps after the stem (pooled) and after each of the four stages, as in STAGES."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = [stem]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return dict(zip(STAGES, maps, strict=True))


def initialize(
    resnet: torchvision.models.ResNet, zero_last_gamma: bool = True
) -> torchvision.models.ResNet:
    """He initialisation by fan-out; where asked for, every residual block starts as the identity.

    Its last BN is zero then (He et al., arXiv 1812.01187, section 3.1).
    """
    for module in resnet.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_last_gamma and isinstance(module, torchvision.models.resnet.Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif zero_last_gamma and isinstance(module, torchvision.models.resnet.BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return resnet


def build_encoder(arch: str = "resnet50", zero_last_gamma: bool = True) -> Encoder:
    """A randomly initialised ResNet trunk.

    Raises ValueError for an ``arch`` that is not in ARCHITECTURES.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"ENCODER.ARCH {arch!r} is not one of {', '.join(ARCHITECTURES)}")
    return Encoder(initialize(torchvision.models.get_model(arch, weights=None), zero_last_gamma))
