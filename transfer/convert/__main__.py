"""python -m transfer.convert CHECKPOINT OUT.pth: a pretrained backbone for Detectron2."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime import files, provenance
from pretrain.runtime.command import with_exit_code
from pretrain.runtime.reading import CheckpointError, read, read_newest, shown
from transfer.convert.backbones import Backbone, counts, find_backbone, inside
from transfer.convert.converted import write_converted
from transfer.convert.layouts import METHODS, allowed
from transfer.convert.proof import TOLERANCE, prove


def run(checkpoint: Path, out: Path, method: str, prefix: str | None) -> None:
    """Read, find, prove, write; says on standard output what it does."""
    if out.suffix != ".pth" or out.is_dir():
        raise CheckpointError(f"{out}: converted weights must be a file named *.pth")
    if checkpoint.is_dir():
        source, loaded = read_newest(checkpoint)
    else:
        source, loaded = checkpoint, read(checkpoint, allowed(method))
    if out.exists() and out.samefile(source):
        raise CheckpointError(f"{out}: would overwrite its own source; name another file")
    try:
        backbone = find_backbone(loaded, method, prefix)
        _report_and_prove(source, backbone)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}. Nothing was written") from error
    meta = meta_of(backbone, source, loaded)
    write_converted(out, backbone.detectron2, meta)
    print(f"wrote    {out} ({out.stat().st_size / 1e6:.1f} MB)")
    print("match    fine-tuning must set what follows, and python -m transfer checks it")
    for key, value in meta["config"].items():
        print(f"         {key} {value}")


def _report_and_prove(source: Path, backbone: Backbone) -> None:
    """Say what was found; CheckpointError where it is nobody's, or computes something else."""
    method, tensors, depth = backbone.method, backbone.torchvision, backbone.depth
    if method is None:
        such = f" (such files: {', '.join(backbone.candidates)})" if backbone.candidates else ""
        raise CheckpointError(
            f"it bears the marks of no method{such}. Fine-tuning must match how its method read "
            f"images: say whose it is by --method, one of {', '.join(METHODS)}"
        )
    print(f"source   {source}")
    print(f"method   {method.name} ({backbone.reason})")
    print(f"network  {backbone.network} ({backbone.place or 'no'} prefix), R{depth}")
    print(f"kept     {len(tensors)} entries")
    print(f"dropped  {counts(backbone.dropped)}")
    stages = prove(tensors, backbone.detectron2, backbone.config, method.stride_in_1x1)
    print(f"proof    max |Detectron2 - torchvision| / max |torchvision|, at most {TOLERANCE:.0e}")
    for row in stages:
        print(f"         {row.stage:5} {row}")


def meta_of(backbone: Backbone, source: Path, loaded: dict[str, Any]) -> dict[str, Any]:
    """What a converted file says of its weights; ``config`` is what fine-tuning must match."""
    method, epoch = backbone.method, loaded.get("epoch")
    meta = {
        "method": method.name,
        "source_name": source.name,
        "source_sha256": files.sha256_of(source),
        "source_page": method.source,
        "license": method.license,
        "network": backbone.network,
        "depth": backbone.depth,
        "entries": len(backbone.detectron2),
        "config": backbone.config,
        "packages": provenance.packages(),
    }
    if isinstance(epoch, (int, float)) and 0 <= epoch <= 10**6:
        meta["pretrain_epochs"] = float(epoch)
    root = inside(loaded, "config", "DATA", "ROOT")
    if isinstance(root, str):  # of our own: its end only, no path of a machine
        names = [part for part in Path(root).parts if part not in ("/", "..")]
        if data := shown("/".join(names[-2:])):
            meta["pretrain_data"] = data
    return meta


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m transfer.convert", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a file, or the folder of a pretraining run")
    add("out", type=Path, help="the converted file, *.pth")
    add("--method", choices=("auto", *METHODS), default="auto", help="whose checkpoint it is")
    add("--prefix", help="before the backbone's entries, in place of the method's own")
    options = parser.parse_args(arguments)
    run(options.checkpoint, options.out, options.method, options.prefix)


if __name__ == "__main__":
    sys.exit(main())
