"""Whose checkpoints convert: a row per method, and a line per kind of file that it has.

A layout says where the backbone that is transferred lies in a file, and by which entries the file
is told from those of all other methods here. Everything else in a file is dropped and counted. No
weight file was at hand when these tables were written: they follow the code that writes or reads
the files, and what they only infer from it is said beside it.

Unless a row says otherwise, a backbone is torchvision's ResNet, with the stride in the 3x3
convolution, trained on RGB images normalised by ImageNet's mean and standard deviation.
"""

from dataclasses import dataclass, field
from typing import Any

from pretrain.runtime.reading import IN_CLOVE, CheckpointError, shown

RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
MSRA = {  # the original ResNets, trained in Caffe
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
}
OPTIONS = ("argparse.Namespace",)  # `opt` or `args` of a training file
IN_VICREGL = ("optimizers.exclude_bias_and_norm",)  # a function in the groups of its optimizer


@dataclass(frozen=True)
class Method:
    """Where a method's files are, what they may hold, and what fine-tuning must match.

    allowed: the classes whose objects lie beside tensors, numpy's numbers and arrays, and plain
    values. stride_in_1x1: of the network that the weights were trained in.
    """

    name: str
    source: str
    license: str
    allowed: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=RGB.copy)
    stride_in_1x1: bool = False


@dataclass(frozen=True)
class Layout:
    """One kind of file of a method.

    prefix: before the backbone's entries, whatever dictionary they lie in, less a ``module.`` that
    all its keys share. marks: entries beside the backbone, or their first components, that no other
    method's files have; empty where nothing tells a file. bare: the file itself is the state dict.
    names: of the entries, as in names.TO_TORCHVISION.
    """

    method: str
    file: str
    prefix: str
    network: str
    marks: tuple[str, ...] = ()
    bare: bool = False
    names: str = "torchvision"


_ROWS = (
    Method(
        "clove",
        "https://github.com/sthalles/CLoVE",
        "released files: none stated in the repository",
        IN_CLOVE,
    ),
    Method("pixpro", "https://github.com/zdaxie/PixPro", "MIT", OPTIONS),
    Method("moco", "https://github.com/facebookresearch/moco", "CC BY-NC 4.0"),
    Method("resim", "https://github.com/Tete-Xiao/ReSim", "CC BY-NC 4.0"),
    Method(
        "densecl",
        "https://huggingface.co/xinlongwang/DenseCL",
        "see the source page; the code is Apache-2.0",
    ),
    Method("detco", "https://github.com/xieenze/DetCo", "BSD-2-Clause for academic use"),
    Method("slotcon", "https://github.com/CVMI-Lab/SlotCon", "Apache-2.0", OPTIONS),
    # Trained with a red std of 58.14 in place of 58.395, which is negligible
    Method("vicregl", "https://github.com/facebookresearch/VICRegL", "CC BY-NC", IN_VICREGL),
    # No public weights: for files of one's own training
    Method("setsim", "https://github.com/DerrickWang005/SetSim.pytorch", "MIT"),
    Method("inscon", "https://arxiv.org/abs/2203.07688", "no public code or weights"),
    Method("swav", "https://github.com/facebookresearch/swav", "see the source page"),
    Method("dino", "https://github.com/facebookresearch/dino", "see the source page", OPTIONS),
    Method("soco", "https://github.com/hologerry/SoCo", "MIT", OPTIONS),
    Method(
        "supervised",
        "https://pytorch.org/vision/stable/models/resnet.html (IMAGENET1K_V1)",
        "BSD-3-Clause",
    ),
    Method(
        "supervised_msra",
        "detectron2://ImageNetPretrained/MSRA/R-50.pkl (Detectron2's MODEL_ZOO.md)",
        "see the source page",
        config=MSRA,
        stride_in_1x1=True,
    ),
    # SimSiam, BYOL, Barlow Twins, MoCo v3, timm and whatever comes
    Method("other", "not one of the methods in this table", "unknown"),
)
METHODS = {row.name: row for row in _ROWS}

_RESIM = ("backbone.fpn_lateral3", "stem.fc")
LAYOUTS = (
    Layout("clove", "released file", "encoder.", "student", ("self_attn",)),
    Layout("pixpro", "training or published file", "encoder.", "student", ("value_transform",)),
    Layout("moco", "v1 file", "encoder_q.", "student", ("encoder_q.fc.weight",)),
    Layout("moco", "v2 file", "encoder_q.", "student"),  # as of ReSim-C4, and of many who followed
    Layout("resim", "FPN training file", "encoder_q.", "student", ("encoder_q.fpn_lateral3",)),
    Layout("resim", "C4 training file", "encoder_q.", "student"),  # inferred from the FPN file
    # Its own converter keeps MoCo's head, below the stem; other Detectron2 models have no such head
    Layout("resim", "numpy backbone file", "", "student", _RESIM, names="detectron2"),
    Layout("densecl", "released file", "", "student", ("author=DenseCL",)),
    Layout("densecl", "training file", "backbone.", "student", ("encoder_q.1", "queue2")),
    Layout("detco", "released file", "", "only network"),  # others load it so; its code is private
    Layout("slotcon", "full file", "encoder_k.", "teacher", ("grouping_k",)),
    Layout("slotcon", "backbone-only file", "", "teacher"),  # inferred from those who load it
    Layout("vicregl", "backbone file", "", "only network", bare=True),
    # The prefix is inferred from its training code
    Layout("vicregl", "full file", "backbone.", "only network", ("maps_projector",)),
    Layout("setsim", "training file", "encoder_q.0.", "student", ("encoder_q.0.fc", "encoder_q.1")),
    Layout("swav", "any file", "", "only network", ("projection_head", "prototypes")),
    Layout("dino", "backbone file", "", "teacher", bare=True),
    Layout("dino", "full file", "teacher.backbone.", "teacher", ("head.last_layer",)),
    Layout("soco", "FPN training file", "encoder.", "student", ("neck_k", "head_k")),
    Layout("soco", "C4 training file", "encoder.", "student"),
    Layout("supervised", "torchvision's file", "", "only network", ("fc.weight",), bare=True),
    Layout("supervised_msra", "*.pkl", "", "only network", ("conv1_w",), names="caffe2"),
)


def method_row(name: str) -> Method:
    """The row called ``name``; CheckpointError where there is none."""
    if name not in METHODS:
        raise CheckpointError(f"method {shown(name)} is not one of auto, {', '.join(METHODS)}")
    return METHODS[name]


def allowed(method: str = "auto") -> tuple[str, ...]:
    """The classes that files of ``method``, or of any, may hold."""
    rows = METHODS.values() if method == "auto" else [method_row(method)]
    return tuple(name for row in rows for name in row.allowed)
