"""Exports one init of a results folder: its backbone in two formats, with a model card."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template
from safetensors.torch import save

from benchmarks.tables import wording
from benchmarks.tables.build import Row, Table, build_tables
from benchmarks.tables.collect import writing
from benchmarks.tables.markdown import grid
from benchmarks.tables.published import load_published
from benchmarks.tables.results import METRICS, Folder, Result, ResultError, read_result
from pretrain.runtime.config import REPOSITORY, ConfigError, load_yaml
from pretrain.runtime.files import write_bytes
from transfer.convert import load_converted, shown

PTH, SAFETENSORS, CARD = "backbone.pth", "backbone.safetensors", "README.md"

# Licences of the converter's table that the Hugging Face hub knows, and those that it does not
ON_THE_HUB = ("MIT", "Apache-2.0", "BSD-3-Clause", "CC BY-NC 4.0")
OTHER = ("CC BY-NC", "BSD-2-Clause for academic use")


def export(folder: str | Path, out: str | Path) -> int:
    """Write the backbone and the card of the init in ``folder`` into the new folder ``out``.

    Returns the exit code. ``out`` depends on nothing but the content of ``folder``, and is there
    whole or not at all: ConfigError for a folder that cannot be exported, or on a full disk, and
    CheckpointError for a file that is no backbone.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if out.exists():
        raise ConfigError(f"{out}: exists already; delete it, or name another folder")
    backbone = folder / PTH
    if not backbone.is_file():
        raise ConfigError(
            f"{folder}: nothing to export, there is no {PTH} in it. Give the folder of one init, "
            "RESULTS/<init>, that python -m benchmarks run has filled; random weights have no file"
        )
    converted = load_converted(backbone)
    meta = converted["meta"]
    # One string: safetensors writes the entries of its metadata in random order.
    tensors = save(dict(converted["model"]), {"meta": json.dumps(meta, sort_keys=True)})
    content = {PTH: backbone.read_bytes(), SAFETENSORS: tensors}
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    results = _read_results(folder, sha256[PTH])
    content[CARD] = _card(folder.name, meta, sha256, results).encode()
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            whole = Path(temporary, out.name)
            for name, data in content.items():
                write_bytes(whole / name, data)
            whole.rename(out)
    for name, data in content.items():
        print(f"wrote {out / name} ({len(data) / 1e6:.1f} MB)")
    return 0


def _read_results(folder: Path, weights_sha256: str) -> list[Result]:
    """All cells of the init, each fine-tuned from these very weights."""
    results = []
    for path in sorted(folder.rglob(METRICS)):
        try:
            result = read_result(path, folder.parent)
            if result.weights_sha256 != weights_sha256:
                raise ResultError(
                    f"fine-tuned from weights {result.weights_sha256}, {PTH} is {weights_sha256}"
                )
        except ResultError as error:
            raise ConfigError(
                f"{path}: {error}. Nothing was exported; run this cell anew, or move its folder out"
            ) from error
        results.append(result)
    return results


def _card(
    init: str, meta: Mapping[str, Any], sha256: Mapping[str, str], results: Sequence[Result]
) -> str:
    """The model card: a YAML head as the Hugging Face hub reads it, then Markdown."""
    text = Path(__file__).with_name("card.md.jinja").read_text()
    template = Template(text, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    own = meta["method"] == "clove" and re.fullmatch(r"step_\d+\.pth", meta["source_name"])
    tasks = {name: replace(task, rows=()) for name, task in load_published().items()}
    paper = load_yaml(REPOSITORY / "CITATION.cff")["preferred-citation"]
    card = template.render(
        init=init,
        meta=meta,
        own=own,
        sha256=sha256,
        settings=[("key", "value"), *((f"`{k}`", f"`{v}`") for k, v in meta["config"].items())],
        licence="unknown" if own else _on_the_hub(meta["license"]),
        paper=paper,
        authors=[
            f"{author['given-names']} {author['family-names']}" for author in paper["authors"]
        ],
        tables=build_tables(Folder(results), tasks),
        values=_values,
        grid=grid,
        shown=shown,
        wording=wording,
    )
    return card + "\n"


def _on_the_hub(licence: str) -> str:
    """The hub's name of a licence."""
    if licence in ON_THE_HUB:
        return licence.lower().replace(" ", "-")
    return "other" if licence in OTHER else "unknown"


def _values(table: Table, row: Row) -> str:
    """The metrics of one row, as a Markdown table."""
    count = str(len(row.seeds))
    lines = [(f"`{name}`", row.mean(name).text, count) for name in table.task.metrics]
    return grid([("metric", "measured", "n"), *lines])
