"""A ResNet's entries under the names they go by, torchvision's and others.

A name that is no part of the trunk has no translation (None).
"""

import re
from collections.abc import Callable

TRUNK = re.compile(r"(conv1|bn1|layer\d+)\.")

# Where a Detectron2 model keeps its backbone: FPN, C4, and res5 in the C4 head.
_MODEL = r"(?:backbone\.bottom_up\.|backbone\.|roi_heads\.)?"
_DETECTRON2 = re.compile(_MODEL + r"(stem\.conv1\.(?:weight|norm\.\w+)|res[2-5]\.\d+\..+)")

_CAFFE2 = re.compile(r"(?:(?:res_)?(conv1)|res([2-5])_(\d+)_branch(1|2[abc]))_(?:bn_)?(\w+)")
_CAFFE2_BRANCH = {"2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_NORM = {
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",  # named an inverse, but it holds the variance
    "running_var": "running_var",
}

_TRANSFORMERS = re.compile(
    r"(?:embedder\.embedder|encoder\.stages\.(\d)\.layers\.(\d+)\.(?:layer\.(\d)|shortcut))"
    r"\.(convolution|normalization)\.(\w+)"
)
_POSITIONS = {"0": "conv1", "1": "bn1"} | {str(n + 3): f"layer{n}" for n in range(1, 5)}

# What may stand before a trunk's entries, by their names; before others, nothing
PREFIXES = {
    "torchvision": re.compile(rf"(?:.*?\.)??(?={TRUNK.pattern})"),
    "transformers": re.compile(r"(?:.*?\.)??(?=embedder\.|encoder\.stages\.)"),
}
# Before names by position: whatever ends before a number, since numbers may come before them, too
BEFORE_POSITION = re.compile(r"(?:^|(?<=\.))(?=\d\.)")


def prefixes(key: str, names: str) -> list[str]:
    """What may stand before an entry's own name in ``key``, if that is one of ``names``."""
    if names == "position":
        return [key[: match.end()] for match in BEFORE_POSITION.finditer(key)]
    start = PREFIXES[names].match(key) if names in PREFIXES else None
    return [start[0] if start else ""]


def to_detectron2(name: str) -> str:
    """``layer3.0.bn2.running_var`` -> ``res4.0.conv2.norm.running_var``."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def from_detectron2(name: str) -> str | None:
    """``backbone.bottom_up.res4.0.conv2.norm.running_var`` -> ``layer3.0.bn2.running_var``."""
    match = _DETECTRON2.fullmatch(name)
    if match is None:
        return None
    name = match[1].removeprefix("stem.")
    name = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
    name = re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", name)
    name = name.replace("shortcut.norm.", "downsample.1.")
    return name.replace("shortcut.", "downsample.0.")


def from_caffe2(name: str) -> str | None:
    """``res4_0_branch2b_bn_riv`` -> ``layer3.0.bn2.running_var``."""
    match = _CAFFE2.fullmatch(name)
    if match is None:
        return None
    stem, stage, block, branch, kind = match.groups()
    is_norm = "_bn_" in name
    if kind not in (_CAFFE2_NORM if is_norm else ("w",)):
        return None
    end = _CAFFE2_NORM[kind] if is_norm else "weight"
    place = "" if stem else f"layer{int(stage) - 1}.{block}."
    if branch == "1":
        return f"{place}downsample.{int(is_norm)}.{end}"
    conv = stem or _CAFFE2_BRANCH[branch]
    return f"{place}{conv.replace('conv', 'bn') if is_norm else conv}.{end}"


def from_transformers(name: str) -> str | None:
    """``encoder.stages.2.layers.0.layer.1.normalization.weight`` -> ``layer3.0.bn2.weight``."""
    match = _TRANSFORMERS.fullmatch(name)
    if match is None:
        return None
    stage, block, conv, kind, end = match.groups()
    is_norm = kind == "normalization"
    if stage is None:
        return f"{'bn' if is_norm else 'conv'}1.{end}"
    place = f"layer{int(stage) + 1}.{block}"
    if conv is None:
        return f"{place}.downsample.{int(is_norm)}.{end}"
    return f"{place}.{'bn' if is_norm else 'conv'}{int(conv) + 1}.{end}"


def from_position(name: str) -> str | None:
    """``4.0.conv1.weight`` -> ``layer1.0.conv1.weight``, as nn.Sequential numbers children()."""
    number, _, rest = name.partition(".")
    return f"{_POSITIONS[number]}.{rest}" if number in _POSITIONS else None


def from_torchvision(name: str) -> str | None:
    """The name itself. Below a method's own prefix everything counts, fitting or not."""
    return name


TO_TORCHVISION: dict[str, Callable[[str], str | None]] = {
    "torchvision": from_torchvision,
    "detectron2": from_detectron2,
    "caffe2": from_caffe2,
    "transformers": from_transformers,
    "position": from_position,
}
