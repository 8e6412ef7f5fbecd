"""python -m transfer.convert CHECKPOINT OUT.pth: a pretrained backbone for Detectron2."""

import argparse
import functools
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.encoder import build_encoder
from pretrain.runtime import files, provenance
from transfer.checkpoints import (
    FORMAT,
    METHODS,
    CheckpointError,
    Method,
    read_checkpoint,
    read_run,
)
from transfer.proof import TOLERANCE, ProofError, Tensors, prove
from transfer.recognition import Backbone, find_backbone

DEPTHS = (50, 101, 152)
BASIC_DEPTHS = (18, 34)
COUNTER = "num_batches_tracked"


class ConversionError(CheckpointError):
    """A backbone that has no place in Detectron2; the message names entries and the way out."""


@dataclass(frozen=True)
class Conversion:
    """One backbone under both names; the two dictionaries share their tensors."""

    backbone: Backbone
    depth: int
    torchvision: Tensors
    detectron2: Tensors


def to_detectron2(
    checkpoint: Mapping[str, Any], method: str = "auto", prefix: str | None = None
) -> Tensors:
    """The backbone in ``checkpoint`` under Detectron2's short names (``res2.0.conv1.weight``).

    checkpoint: as read_checkpoint returns it, or a state dict. Tensors come out as contiguous
    float32 copies, batch counters as int64.
    """
    return convert(checkpoint, method, prefix).detectron2


def convert(
    checkpoint: Mapping[str, Any],
    method: str = "auto",
    prefix: str | None = None,
    name: str = "checkpoint",
) -> Conversion:
    """Find, check and rename the backbone; ``name`` stands before every error."""
    try:
        backbone = find_backbone(checkpoint, method, prefix)
        depth = _check_entries(backbone.entries)
        tensors = {key: _plain(key, value) for key, value in backbone.entries.items()}
    except CheckpointError as error:
        raise ConversionError(f"{name}: {error}") from error
    renamed = {detectron2_name(key): value for key, value in tensors.items()}
    return Conversion(backbone, depth, tensors, renamed)


def detectron2_name(name: str) -> str:
    """``layer3.0.bn2.running_var`` -> ``res4.0.conv2.norm.running_var``."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


@functools.cache
def _expected(depth: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry of torchvision's trunk."""
    with torch.device("meta"):
        state = build_encoder(f"resnet{depth}").state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _check_entries(entries: Mapping[str, Any]) -> int:
    """The depth whose entries these are, exactly; ConversionError if there is none."""
    counted = any(key.endswith(COUNTER) for key in entries)

    def names(depth: int) -> set[str]:
        return {key for key in _expected(depth) if counted or not key.endswith(COUNTER)}

    basic = not any(".conv3." in key for key in entries) and 2 * len(entries) > len(names(18))
    candidates = BASIC_DEPTHS if basic else DEPTHS
    depth = min(candidates, key=lambda depth: len(names(depth) ^ set(entries)))
    if basic:
        raise ConversionError(
            f"a ResNet-{depth}. It can be pretrained, but Detectron2's C4 head is made for "
            "bottleneck blocks: pretrain a ResNet-50, 101 or 152 to transfer it"
        )
    extra = [key for key in entries if key not in names(depth)]
    if extra:
        raise ConversionError(
            f"{len(extra)} of {len(entries)} encoder entries have no place in a ResNet-{depth} "
            f"({_some(extra)}). {_PLAIN_ONLY}"
        )
    missing = sorted(names(depth) - set(entries))
    if missing:
        raise ConversionError(
            f"{len(missing)} of the {len(names(depth))} entries of a ResNet-{depth} are missing "
            f"({_some(missing)}). Is the file complete, and --prefix right?"
        )
    wrong = [
        f"{key} is {_shape(entries[key])}, not {expected}"
        for key, expected in _expected(depth).items()
        if key in entries and _shape(entries[key]) != expected
    ]
    if wrong:
        raise ConversionError(
            f"{len(wrong)} of {len(entries)} encoder entries have other shapes than a "
            f"ResNet-{depth}'s ({_some(wrong)}). {_PLAIN_ONLY}"
        )
    return depth


_PLAIN_ONLY = (
    "Only plain ResNet-50, 101 and 152 convert: no deep stem, no wide ResNet, no ResNeXt. "
    "If it is one, is --prefix right?"
)


def _some(items: list[str], shown: int = 3) -> str:
    return ", ".join(items[:shown]) + (", …" if len(items) > shown else "")


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, (torch.Tensor, np.ndarray)) else _kind(value)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _plain(key: str, value: torch.Tensor | np.ndarray) -> torch.Tensor:
    """A finite, contiguous copy of its own: float32, int64 for batch counters."""
    wanted = torch.int64 if key.endswith(COUNTER) else torch.float32
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise ConversionError(f"{key} holds {value.dtype}, not numbers")
        value = torch.from_numpy(value.astype(np.float64))
    if value.layout is not torch.strided or value.device.type == "meta" or value.is_quantized:
        raise ConversionError(f"{key} is not a plain tensor ({value.layout}, {value.dtype})")
    if value.is_complex() or not (value.is_floating_point() or wanted is torch.int64):
        raise ConversionError(f"{key} holds {value.dtype}, not floating-point weights")
    if not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise ConversionError(
            f"{key} holds {count} values that are NaN or infinite. The run diverged, or the file "
            "is damaged: take an earlier checkpoint"
        )
    return value.detach().to("cpu", wanted).clone(memory_format=torch.contiguous_format)


def write_converted(
    out: Path, conversion: Conversion, method: Method, source: Path, epochs: float | None
) -> dict[str, Any]:
    """Write the converted file (design.md section 5), atomically, and return its ``meta``."""
    meta = {
        "method": method.name,
        "source_name": source.name,
        "source_sha256": files.sha256_of(source),
        "source_page": method.source,
        "license": method.license,
        "network": conversion.backbone.network,
        "depth": conversion.depth,
        "entries": len(conversion.detectron2),
        "config": {**method.config, "MODEL.RESNETS.DEPTH": conversion.depth},
        "packages": provenance.packages(),
    }
    if epochs is not None:
        meta["pretrain_epochs"] = epochs
    converted = {
        "format": FORMAT,
        "model": conversion.detectron2,
        "matching_heuristics": True,  # Detectron2 finds the short names in C4 and FPN models
        "__author__": "CLoVE on Detectron2",
        "meta": meta,
    }
    files.write_torch(out, converted)
    return meta


def run(checkpoint: Path, out: Path, method: str, prefix: str | None) -> None:
    """Read, map, prove, write; says on standard output what it does."""
    if out.suffix != ".pth" or out.is_dir():
        raise ConversionError(f"{out}: converted weights must be a file named *.pth")
    if checkpoint.is_dir():
        source, loaded = read_run(checkpoint, method)
    else:
        source, loaded = checkpoint, read_checkpoint(checkpoint, method)
    if out.exists() and out.samefile(source):
        raise ConversionError(f"{out}: would overwrite its own source; name another file")
    conversion = convert(loaded, method, prefix, name=str(source))
    backbone = conversion.backbone
    if backbone.method is None:
        raise ConversionError(
            f"{source}: {backbone.reason}. Say whose it is, --method {' or '.join(METHODS)}: "
            "fine-tuning must match how the method read its images"
        )
    print(f"source   {source}")
    print(f"method   {backbone.method.name} ({backbone.reason})")
    print(f"network  {backbone.network} ({backbone.prefix or 'no'} prefix), R{conversion.depth}")
    print(f"kept     {_counts(Counter(key.split('.')[0] for key in backbone.entries))}")
    print(f"dropped  {_counts(backbone.dropped)}")
    try:
        stages = prove(
            conversion.torchvision,
            conversion.detectron2,
            backbone.method.config,
            conversion.depth,
        )
    except ProofError as error:
        raise ConversionError(f"{source}: {error}. Nothing was written") from error
    print(f"proof    max |Detectron2 - torchvision| / max |torchvision|, at most {TOLERANCE:.0e}")
    for row in stages:
        print(f"         {row.stage:5} C4 {row.c4:.1e}  FPN {row.fpn:.1e}")
    meta = write_converted(out, conversion, backbone.method, source, _epochs(loaded))
    print(f"wrote    {out} ({out.stat().st_size / 1e6:.1f} MB)")
    print("match    fine-tuning must set what follows, and python -m transfer checks it")
    for key, value in meta["config"].items():
        print(f"         {key} {value}")


def _counts(components: Counter) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in components.items())
    return f"{components.total()} entries" + (f": {shown}" if shown else "")


def _epochs(checkpoint: Mapping[str, Any]) -> float | None:
    epoch = checkpoint.get("epoch")
    return float(epoch) if isinstance(epoch, (int, float)) else None


def list_methods() -> str:
    """The table of methods, one layout a line."""
    rows = [("method", "layout", "container", "prefix", "network", "dropped")]
    for method in METHODS.values():
        for layout in method.layouts:
            (prefix, network), *_ = layout.networks.items()
            others = [*list(layout.networks)[1:], *layout.dropped]
            dropped = ", ".join(name.rstrip(".") for name in others)
            container = layout.container or "-"
            rows.append((method.name, layout.name, container, prefix or "-", network, dropped))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for method in METHODS.values():
        allowed = ", ".join(sorted(name for _, name in method.allowed)) or "nothing"
        lines += [
            f"{method.name}: {method.source}; licence: {method.license}; evidence: "
            f"{method.evidence}; read beside tensors: {allowed}"
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m transfer.convert", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="a file, or the folder of a pretraining run"
    )
    parser.add_argument("out", type=Path, nargs="?", help="the converted file, *.pth")
    parser.add_argument("--method", choices=("auto", *METHODS), default="auto")
    parser.add_argument("--prefix", help="of the backbone's keys, in place of the method's own")
    parser.add_argument("--list", action="store_true", help="print the table of methods")
    options = parser.parse_args(arguments)
    if options.list:
        print(list_methods())
        return 0
    if options.out is None:
        parser.error("CHECKPOINT and OUT.pth are needed")
    try:
        run(options.checkpoint, options.out, options.method, options.prefix)
    except (CheckpointError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
