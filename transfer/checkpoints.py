"""Whose checkpoints convert: one row per method, from peer_checkpoints.md section 1.

Rows only: ``reading.py`` reads a file, ``recognition.py`` finds the row that fits it.
"""

from dataclasses import dataclass, field
from typing import Any

NAMESPACE = "argparse.Namespace"
NUMPY = "numpy numbers and arrays"
VICREGL_FILTER = "optimizers.exclude_bias_and_norm"

FORMAT = 1  # of a converted file (design.md section 5)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the value and the way out."""


def shown(name: Any) -> str:
    """A name or number from a file, fit to be printed: short, and without control characters."""
    if not isinstance(name, (str, int, float)) or (isinstance(name, int) and abs(name) > 10**9):
        return f"a {type(name).__name__}"
    return "".join(c if c.isprintable() else "?" for c in str(name)[:80])


@dataclass(frozen=True)
class Layout:
    """One way in which a method's files are laid out; ``module.`` before every key is ignored."""

    name: str
    container: str | None  # where the state dict lies; None: the file is the state dict
    networks: dict[str, str]  # backbone prefix -> network; the first one is transferred
    dropped: tuple[str, ...] = ()  # all other keys: their first components, or * and their ends
    marks: tuple[str, ...] = ()  # keys or components that no other method's files have
    beside: dict[str, Any] = field(default_factory=dict)  # the same at the top; None: any value
    names: str = "torchvision"  # of the backbone's entries: torchvision, detectron2 or caffe2


def _rgb() -> dict[str, Any]:
    return {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


@dataclass(frozen=True)
class Method:
    """A row: where the files are, what they hold, and what fine-tuning from them must match.

    evidence: of the layouts, S seen in the code that writes or reads the files, T tested here on
    files with the real key lists, 3P seen in other public code that loads them, I inferred.
    """

    name: str
    layouts: tuple[Layout, ...]
    source: str
    license: str
    evidence: str
    depths: tuple[int, ...] = (50,)  # of the ResNets that are released
    allowed: tuple[str, ...] = (NUMPY,)  # beside tensors and plain values; NUMPY: see DETECTRON2
    stride_in_1x1: bool = False  # of the network that the weights were trained in
    config: dict[str, Any] = field(default_factory=_rgb)
    absent: str = ""  # why there is no file, or no layout


# What another converter wrote for Detectron2, mostly arrays in a .pkl, or a Detectron2 model: any
# row's weights may come so, and it tells none of them.
DETECTRON2 = Layout(
    name="in Detectron2's names",
    container="model",
    networks={"": "only network"},
    names="detectron2",
)

_MOCO_DROPPED = ("queue", "queue_ptr")
_RESIM_FPN = ("fpn_lateral3", "fpn_lateral4", "fpn_lateral5", "fpn_output3", "fpn_output4")
_PIXPRO_HEADS = ("projector", "projector_k", "predictor")

METHODS = {
    row.name: row
    for row in (
        Method(
            name="clove",
            layouts=(
                Layout(
                    name="checkpoint of python -m pretrain",
                    container="model",
                    networks={"student.encoder.": "student", "teacher.encoder.": "teacher"},
                    dropped=("student.projector", "teacher.projector", "attention"),
                    marks=("attention",),
                ),
                Layout(
                    name="released file",
                    container="model",
                    networks={"encoder.": "student", "encoder_k.": "teacher"},
                    dropped=("projector", "projector_k", "self_attn"),
                    marks=("self_attn",),
                ),
            ),
            source="https://github.com/sthalles/CLoVE",
            license="released files: none stated in the repository",
            evidence="S, T",
            depths=(50, 101, 152),
            allowed=(NAMESPACE, NUMPY),  # `opt`; the optimizer's learning rate
        ),
        Method(
            name="pixpro",
            layouts=(
                Layout(
                    name="training or published file",
                    container="model",
                    networks={"encoder.": "student", "encoder_k.": "teacher"},
                    dropped=(
                        *_PIXPRO_HEADS,
                        "projector_instance",
                        "projector_instance_k",
                        "value_transform",
                    ),
                    marks=("value_transform",),
                ),
            ),
            source="https://github.com/zdaxie/PixPro",
            license="MIT",
            evidence="S, T, 3P",
            allowed=(NAMESPACE, NUMPY),  # `opt` of a training file
        ),
        Method(
            name="moco",
            layouts=tuple(
                Layout(
                    name=f"{version} file",
                    container="state_dict",
                    networks={"encoder_q.": "student", "encoder_k.": "teacher"},
                    dropped=(*_MOCO_DROPPED, "encoder_q.fc"),
                    marks=(head,),
                )
                for version, head in (
                    ("v1", "encoder_q.fc.weight"),
                    ("v2, or ReSim-C4 training,", "encoder_q.fc.0"),
                )
            ),
            source="https://github.com/facebookresearch/moco",
            license="CC BY-NC 4.0",
            evidence="S, T",
        ),
        Method(
            name="resim",
            layouts=(
                Layout(  # ReSim-C4's has no FPN and so is like MoCo v2's
                    name="training file",
                    container="state_dict",
                    networks={"encoder_q.": "student", "encoder_k.": "teacher"},
                    dropped=(
                        *_MOCO_DROPPED,
                        "encoder_q.fc",
                        *(f"encoder_q.{conv}" for conv in _RESIM_FPN),
                    ),
                    marks=("encoder_q.fpn_lateral3",),
                ),
                Layout(
                    name='numpy "Detectron backbone" file',
                    container="model",
                    networks={"": "student"},
                    dropped=("stem.fc", *(f"backbone.{conv}" for conv in _RESIM_FPN)),
                    marks=("backbone.fpn_lateral3",),
                    names="detectron2",
                ),
            ),
            source="https://github.com/Tete-Xiao/ReSim",
            license="CC BY-NC 4.0",
            evidence="S, T; C4 files I",
        ),
        Method(
            name="densecl",
            layouts=(
                Layout(
                    name="released file",
                    container="state_dict",
                    networks={"": "student"},
                    beside={"author": "DenseCL"},
                ),
                Layout(
                    name="training file (mmcv)",
                    container="state_dict",
                    networks={"backbone.": "student"},
                    dropped=(
                        *("encoder_q", "encoder_k", "head"),  # encoder_q.0 is the backbone again
                        *("queue", "queue_ptr", "queue2", "queue2_ptr"),
                    ),
                    marks=("encoder_q.0", "queue2"),
                ),
            ),
            source="https://huggingface.co/xinlongwang/DenseCL",
            license="see the source page; the code is Apache-2.0",
            evidence="S, T, 3P",
            depths=(50, 101),
        ),
        Method(
            name="detco",
            layouts=(
                Layout(
                    name="released file",
                    container="state_dict",
                    networks={"": "only network"},
                    dropped=("fc",),
                ),
            ),
            source="https://github.com/xieenze/DetCo",
            license="BSD-2-Clause for academic use",
            evidence="S, T, 3P; that nothing but fc.* is beside the backbone: I",
        ),
        Method(
            name="slotcon",
            layouts=(
                Layout(
                    name="full file",
                    container="model",
                    networks={"encoder_k.": "teacher", "encoder_q.": "student"},
                    dropped=(
                        *("projector_q", "projector_k", "grouping_q", "grouping_k"),
                        *("predictor_slot", "center"),
                    ),
                    marks=("grouping_k",),
                ),
                Layout(
                    name='"backbone only" file',
                    container="state_dict",  # or none at all
                    networks={"": "teacher"},
                ),
            ),
            source="https://github.com/CVMI-Lab/SlotCon",
            license="Apache-2.0",
            evidence="full files S, T; backbone only I",
            allowed=(NAMESPACE, NUMPY),  # `args` of a full file
        ),
        Method(
            name="vicregl",
            layouts=(
                Layout(name="backbone file", container=None, networks={"": "only network"}),
                Layout(
                    name="full file",
                    container="model",
                    networks={"backbone.": "only network"},
                    dropped=("maps_projector", "projector", "classifier"),
                    marks=("classifier",),
                ),
            ),
            # Trained with a red std of 58.14 in place of 58.395, which is negligible.
            source="https://github.com/facebookresearch/VICRegL",
            license="CC BY-NC",
            evidence="S, T; prefix of the full files I",
            allowed=(NUMPY, VICREGL_FILTER),  # the optimizer's groups of a full file
        ),
        Method(
            name="setsim",
            layouts=(
                Layout(
                    name="training file",
                    container="state_dict",
                    networks={"encoder_q.0.": "student", "encoder_k.0.": "teacher"},
                    dropped=(
                        *("encoder_q.1", "encoder_q.0.fc", "encoder_k"),
                        *("queue", "queue_ptr", "queue2", "queue2_ptr"),
                        *("logits_mask", "negative_mask"),
                    ),
                    marks=("encoder_q.1", "encoder_q.0.fc"),
                ),
            ),
            source="https://github.com/DerrickWang005/SetSim.pytorch",
            license="MIT",
            evidence="S, T",
            absent="no public weights in its repository: for files of your own training",
        ),
        Method(
            name="inscon",
            layouts=(),
            source="https://arxiv.org/abs/2203.07688",
            license="-",
            evidence="searched for",
            absent="no public code or weights, so no layout is known",
        ),
        Method(
            name="swav",
            layouts=(
                Layout(
                    name="released file",
                    container=None,
                    networks={"": "only network"},
                    dropped=("projection_head", "prototypes"),
                    marks=("projection_head", "prototypes"),
                ),
                Layout(
                    name="training file",
                    container="state_dict",
                    networks={"": "only network"},
                    dropped=("projection_head", "prototypes"),
                    marks=("projection_head", "prototypes"),
                ),
            ),
            source="https://github.com/facebookresearch/swav",
            license="see the source page",
            evidence="S, T",
        ),
        Method(
            name="dino",
            layouts=(
                Layout(name="backbone file", container=None, networks={"": "teacher"}),
                Layout(
                    name="full file",
                    container="teacher",
                    networks={"backbone.": "teacher"},
                    dropped=("head",),
                    marks=("head.last_layer",),
                    beside={"student": None, "teacher": None},
                ),
            ),
            source="https://github.com/facebookresearch/dino",
            license="see the source page",
            evidence="S, T",
            allowed=(NAMESPACE, NUMPY),  # `args`; the optimizer's learning rate
        ),
        Method(
            name="soco",
            layouts=(
                Layout(
                    name="training file",
                    container="model",
                    networks={"encoder.": "student", "encoder_k.": "teacher"},
                    dropped=(
                        *(*_PIXPRO_HEADS, "neck", "neck_k", "head", "head_k"),
                        *_MOCO_DROPPED,  # of SoCo-C4
                    ),
                    marks=("predictor",),
                ),
            ),
            source="https://github.com/hologerry/SoCo",
            license="MIT",
            evidence="S, T",
            allowed=(NAMESPACE, NUMPY),  # `opt`
        ),
        Method(
            name="supervised",
            layouts=(
                Layout(
                    name="torchvision's weights",
                    container=None,
                    networks={"": "only network"},
                    dropped=("fc",),
                    beside={"fc.weight": None},
                ),
            ),
            source="https://pytorch.org/vision/stable/models/resnet.html (IMAGENET1K_V1)",
            license="BSD-3-Clause",
            evidence="T",
            depths=(50, 101, 152),
        ),
        Method(
            name="supervised_msra",
            layouts=(
                Layout(
                    name="R-50.pkl, R-101.pkl of Detectron2's model zoo",
                    container=None,
                    networks={"": "only network"},
                    dropped=(
                        *("conv1_b", "fc1000_w", "fc1000_b", "pred_w", "pred_b", "*_momentum"),
                    ),
                    marks=("conv1_w",),
                    names="caffe2",
                ),
            ),
            source="detectron2://ImageNetPretrained/MSRA/R-50.pkl (Detectron2's MODEL_ZOO.md)",
            license="see the source page",
            evidence="S, T",
            depths=(50, 101),
            stride_in_1x1=True,
            config={
                "INPUT.FORMAT": "BGR",
                "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
                "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
                "MODEL.RESNETS.STRIDE_IN_1X1": True,
            },
        ),
    )
}


def method_row(name: str) -> Method:
    """The row called ``name``."""
    if name not in METHODS:
        raise CheckpointError(f"method {name!r} is not one of auto, {', '.join(METHODS)}")
    return METHODS[name]
