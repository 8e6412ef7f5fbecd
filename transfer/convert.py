"""python -m transfer.convert CHECKPOINT OUT.pth: a pretrained backbone for Detectron2."""

import argparse
import functools
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
from transfer.checkpoints import FORMAT, METHODS, CheckpointError, Method, shown
from transfer.names import to_detectron2 as to_detectron2_name
from transfer.proof import TOLERANCE, ProofError, Tensors, prove
from transfer.reading import read_checkpoint, read_run
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

    checkpoint: as read_checkpoint returns it, or a state dict. Tensors come out contiguous, in
    float32 and batch counters in int64; those that were so already share the checkpoint's memory.
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
    renamed = {to_detectron2_name(key): value for key, value in tensors.items()}
    return Conversion(backbone, depth, tensors, renamed)


@functools.cache
def _expected(depth: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry of torchvision's trunk."""
    with torch.device("meta"):
        state = build_encoder(f"resnet{depth}").state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _check_entries(entries: Mapping[str, Any]) -> int:
    """The depth whose entries these are, exactly; ConversionError if there is none."""
    counted = any(key.endswith(COUNTER) for key in entries)

    def expected(depth: int) -> set[str]:
        return {key for key in _expected(depth) if counted or not key.endswith(COUNTER)}

    basic = not any(".conv3." in key for key in entries) and 2 * len(entries) > len(expected(18))
    candidates = BASIC_DEPTHS if basic else DEPTHS
    depth = min(candidates, key=lambda depth: len(expected(depth) ^ set(entries)))
    if basic:
        raise ConversionError(
            f"a ResNet-{depth}. It can be pretrained, but Detectron2's C4 head is made for "
            "bottleneck blocks: pretrain a ResNet-50, 101 or 152 to transfer it"
        )
    extra = [key for key in entries if key not in expected(depth)]
    if extra:
        raise ConversionError(
            f"{len(extra)} of {len(entries)} encoder entries have no place in a ResNet-{depth} "
            f"({_some(extra)}). {_PLAIN_ONLY}"
        )
    missing = sorted(expected(depth) - set(entries))
    if missing:
        raise ConversionError(
            f"{len(missing)} of the {len(expected(depth))} entries of a ResNet-{depth} are missing "
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


def _some(items: list[str], count: int = 3) -> str:
    return ", ".join(map(shown, items[:count])) + (", …" if len(items) > count else "")


def _shape(value: Any) -> tuple[int, ...] | str:
    if isinstance(value, np.ndarray) or (isinstance(value, torch.Tensor) and not value.is_nested):
        return tuple(value.shape)
    return _kind(value)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _plain(key: str, value: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Finite and contiguous in a storage of its own: float32, int64 for batch counters."""
    wanted = torch.int64 if key.endswith(COUNTER) else torch.float32
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise ConversionError(f"{key} holds {value.dtype}, not numbers")
        value = torch.from_numpy(np.asarray(value, value.dtype.newbyteorder("="), order="C"))
    if value.layout is not torch.strided or value.device.type == "meta" or value.is_quantized:
        raise ConversionError(f"{key} is not a plain tensor ({value.layout}, {value.dtype})")
    if value.is_complex() or not (value.is_floating_point() or wanted is torch.int64):
        raise ConversionError(f"{key} holds {value.dtype}, not floating-point weights")
    value = value.detach().to("cpu", wanted).contiguous()
    if not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise ConversionError(
            f"{key} holds {count} values that are NaN or infinite. The run diverged, or the file "
            "is damaged: take an earlier checkpoint"
        )
    own = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if own else value.clone()


def write_converted(
    out: Path,
    conversion: Conversion,
    method: Method,
    source: Path,
    epochs: float | None,
    data: str | None,
) -> dict[str, Any]:
    """Write the converted file (design.md section 5), atomically, and return its ``meta``.

    epochs, data: of the pretraining, where the source says them.
    """
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
    if data is not None:
        meta["pretrain_data"] = data
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
        such = f"; {', '.join(backbone.candidates)} release such files" * bool(backbone.candidates)
        raise ConversionError(
            f"{source}: {backbone.reason}, as files of several methods do. Fine-tuning must match "
            f"how its method read images: say whose it is, --method NAME (see --list{such})"
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
            backbone.method.stride_in_1x1,
        )
    except ProofError as error:
        raise ConversionError(f"{source}: {error}. Nothing was written") from error
    print(f"proof    max |Detectron2 - torchvision| / max |torchvision|, at most {TOLERANCE:.0e}")
    for row in stages:
        print(f"         {row.stage:5} C4 {row.c4:.1e}  FPN {row.fpn:.1e}")
    said = {"epochs": _epochs(loaded), "data": _data(loaded)}
    meta = write_converted(out, conversion, backbone.method, source, **said)
    print(f"wrote    {out} ({out.stat().st_size / 1e6:.1f} MB)")
    print("match    fine-tuning must set what follows, and python -m transfer checks it")
    for key, value in meta["config"].items():
        print(f"         {key} {value}")


def _counts(components: Counter) -> str:
    counts = ", ".join(f"{shown(name)} {count}" for name, count in list(components.items())[:20])
    rest = ", …" if len(components) > 20 else ""
    return f"{components.total()} entries" + (f": {counts}{rest}" if counts else "")


def _epochs(checkpoint: Mapping[str, Any]) -> float | None:
    epoch = checkpoint.get("epoch")
    known = isinstance(epoch, (int, float)) and 0 <= epoch <= 10**6
    return float(epoch) if known else None


def _data(checkpoint: Mapping[str, Any]) -> str | None:
    """``imagenet/train``: the end of DATA.ROOT in a checkpoint of our own, no path of a machine."""
    found: Any = checkpoint
    for key in ("config", "DATA", "ROOT"):
        found = dict.get(found, key) if isinstance(found, dict) else None
    if not isinstance(found, str):
        return None
    names = [part for part in Path(found).parts if part not in ("/", "..")]
    return shown("/".join(names[-2:])) or None


def list_methods() -> str:
    """The table of methods, one layout a line, and what is known of each method's files."""
    rows = [("method", "layout", "container", "prefix", "network", "depth", "dropped")]
    for method in METHODS.values():
        depths = ", ".join(map(str, method.depths))
        for layout in method.layouts:
            (prefix, network), *others = layout.networks.items()
            dropped = [*(name.rstrip(".") for name, _ in others), *layout.dropped]
            cells = (layout.container or "-", prefix or "-", network, depths, ", ".join(dropped))
            rows.append((method.name, layout.name, *cells))
        if not method.layouts:
            rows.append((method.name, "none", *"-" * 5))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for method in METHODS.values():
        allowed = ", ".join(method.allowed) or "nothing"
        lines += [
            "",
            f"{method.name}: {method.source}",
            f"  licence: {method.license}; evidence: {method.evidence}; read beside tensors and "
            f"plain values: {allowed}",
        ]
        if method.absent:
            lines += [f"  {method.absent}"]
    lines += [
        "",
        "`module.` before every key is ignored. Files that other converters wrote in Detectron2's",
        "names convert too, with --method. Evidence: S seen in code that writes or reads the",
        "files, T tested on files with the real key lists, 3P seen in other public loaders,",
        "I inferred.",
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
    parser.add_argument(
        "--prefix",
        help="of a backbone in torchvision's names, in place of the method's own; "
        "may begin with the container's name",
    )
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
