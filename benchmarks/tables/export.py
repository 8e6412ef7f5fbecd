"""Exports one init of a results folder: its backbone in two formats, with a model card."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.markdown import grid
from benchmarks.published import load_published
from benchmarks.results import Result, ResultError, read_result
from benchmarks.tables import Row, Table, build_tables
from benchmarks.wording import mean_and_std
from pretrain.runtime.config import REPOSITORY, ConfigError, load_yaml
from pretrain.runtime.files import write_bytes

PTH, SAFETENSORS, CARD = "backbone.pth", "backbone.safetensors", "README.md"

# What transfer/checkpoints.py says of a source, as the Hugging Face hub calls it.
LICENCES = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC": "other",
    "BSD-2-Clause for academic use": "other",
}
UNKNOWN = "unknown"


def export(folder: str | Path, out: str | Path) -> int:
    """Write the backbone and the card of the init in ``folder`` into the new folder ``out``.

    Returns the exit code. ``out`` depends on nothing but the content of ``folder``, and is there
    whole or not at all: ConfigError for a folder that cannot be exported, or on a full disk.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; delete it, or name another folder")
    backbone = folder / PTH
    if not backbone.is_file():
        raise ConfigError(
            f"{folder}: nothing to export, there is no {PTH} in it. Give the folder of one init, "
            "RESULTS/<init>, that python -m benchmarks run has filled; random weights have no file"
        )
    model, meta = _read_backbone(backbone)
    _check_source(folder, meta)
    content = {PTH: backbone.read_bytes(), SAFETENSORS: _safetensors(model, meta)}
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    results = _read_results(folder, sha256[PTH])
    content[CARD] = _card(folder.name, meta, sha256, results).encode()
    _write(out, content)
    for name, data in content.items():
        print(f"wrote {out / name} ({len(data) / 1e6:.1f} MB)")
    return 0


def _read_backbone(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and ``meta`` of a converted file."""
    from transfer.checkpoints import CheckpointError
    from transfer.reading import load_converted

    try:
        converted = load_converted(path)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    return converted["model"], converted["meta"]


def _check_source(folder: Path, meta: Mapping[str, Any]) -> None:
    """``source.json`` must tell of the same checkpoint; a file converted by hand has none."""
    path = folder / "source.json"
    if not path.exists():
        return
    try:
        record = json.loads(path.read_text())
        said = (record["method"], record["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not readable ({error!r}). Run this init anew") from error
    made_from = (meta["method"], meta["source_sha256"])
    if said != made_from:
        raise ConfigError(
            f"{folder / PTH}: made from {' '.join(made_from)}, {path.name} beside it says "
            f"{' '.join(map(str, said))}. Put back the file that belongs here, or run the init anew"
        )


def _read_results(folder: Path, weights_sha256: str) -> list[Result]:
    """All cells of the init, each fine-tuned from these very weights."""
    results = []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            result = read_result(path, (folder.name, *path.relative_to(folder).parts))
            if result.main_metric not in result.metrics:
                raise ResultError(f"field metrics.{result.main_metric} is missing")
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


def _safetensors(model: Mapping[str, Any], meta: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    # One string: safetensors writes the entries of its metadata in random order.
    return save(dict(model), {"meta": json.dumps(meta, sort_keys=True)})


def _write(out: Path, content: Mapping[str, bytes]) -> None:
    """Fill a temporary neighbour of ``out``, then move it there; an empty folder is replaced."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            whole = Path(temporary, out.name)
            for name, data in content.items():
                write_bytes(whole / name, data)
            whole.rename(out)
    except OSError as error:
        raise ConfigError(
            f"{out}: not written ({error.strerror}). Make room there, or name another folder"
        ) from error


# ---------------------------------------------------------------------------------------------
# The card


def _card(
    init: str, meta: Mapping[str, Any], sha256: Mapping[str, str], results: Sequence[Result]
) -> str:
    """The model card: a YAML head as the Hugging Face hub reads it, then Markdown."""
    from transfer.checkpoints import shown

    method, depth, page = meta["method"], meta["depth"], meta["source_page"]
    own = method == "clove" and re.fullmatch(r"step_\d+\.pth", meta["source_name"]) is not None
    epochs, data = meta.get("pretrain_epochs"), meta.get("pretrain_data")
    unknown = "not recorded in the weights"
    facts = [
        ("method", f"{method} ({page})"),
        ("architecture", f"ResNet-{depth} up to res5, without projector, heads or classifier"),
        ("entries", f"{meta['entries']}, by Detectron2's short names (`res2.0.conv1.weight`)"),
        ("network taken", meta["network"]),
        (
            "pretraining data",
            f"`{shown(data)}`" if data else unknown + "; see the source" * (not own),
        ),
        ("pretraining epochs", unknown if epochs is None else f"{epochs:g}"),
        ("source", f"`{shown(meta['source_name'])}`" + " of `python -m pretrain`" * own),
        ("source's sha256", f"`{meta['source_sha256']}`"),
    ]
    files = [
        (f"`{PTH}`", "format 1 of `python -m transfer.convert`", f"`{sha256[PTH]}`"),
        (f"`{SAFETENSORS}`", "the same tensors; `meta` as JSON", f"`{sha256[SAFETENSORS]}`"),
    ]
    settings = [(f"`{key}`", f"`{value}`") for key, value in meta["config"].items()]
    return f"""---
license: {_licence(meta, own)}
library_name: detectron2
tags:
- detectron2
- resnet
- {method}
---

# {init}: ResNet-{depth} pretrained with {method}, for Detectron2

Written by `python -m benchmarks export` of CLoVE on Detectron2.

{grid([("", "this backbone"), *facts])}

## Files

{grid([("file", "what", "sha256"), *files])}

In a checkout of CLoVE on Detectron2:

```bash
python -m transfer --task coco_c4 --weights {PTH} --output runs/coco_c4
```

Anywhere:

```python
from safetensors.torch import load_file

tensors = load_file("{SAFETENSORS}")
```

## What fine-tuning must match

`python -m transfer` stops where its config says otherwise; other code has to see to it itself.
Mean and std are those of pixels from 0 to 255, in the order of `INPUT.FORMAT`.

{grid([("key", "value"), *settings])}

## Results

{_results(results)}

## Licence

The code that wrote this is under the MIT licence. {_licence_of_weights(meta, own)}

## Citation

{_citation(meta)}
"""


def _results(results: Sequence[Result]) -> str:
    if not results:
        return "None yet."
    tasks = {name: replace(task, rows=()) for name, task in load_published().items()}
    sections = [_section(table) for table in build_tables(results, tasks, None)]
    return "\n\n".join(
        [
            "Mean ± sample standard deviation over n seeds, for n = 1 the value alone, fine-tuned "
            f"from this `{PTH}`.",
            *sections,
        ]
    )


def _section(table: Table) -> str:
    """One task on one data set."""
    data, title = table.data, f"### {table.task.title} (`{table.task.name}`)"
    parts = [title if data.official else f"{title}: on {data.name}, not the official data"]
    parts.append(
        f"Data: {data.name}, {data.train_images} training and {data.test_images} test images, "
        f"sha256 of the annotations `{data.sha256}`."
    )
    if not data.official:
        parts.append("**These are not the official data: no value compares with published ones.**")
    if table.shows_the_road_only:
        metric = table.task.main_metric
        parts.append(f"**Every {metric} is under 1: this run shows the road, not quality.**")
    for row in table.rows:
        parts += [_schedule(row), grid([("metric", "measured", "n"), *_values(table, row)])]
    return "\n\n".join(parts)


def _schedule(row: Row) -> str:
    schedule = f"{row.schedule.iterations} iterations of {row.schedule.images_per_batch} images"
    seeds = f"seed{'s' * (len(row.seeds) > 1)} {', '.join(map(str, row.seeds))}"
    return "; ".join([f"{schedule}, {seeds}", *row.notes]) + "."


def _values(table: Table, row: Row) -> list[tuple[str, str, str]]:
    return [
        (f"`{metric}`", mean_and_std(row.measured.get(metric)), str(len(row.seeds)))
        for metric in table.task.metrics
    ]


def _licence(meta: Mapping[str, Any], own: bool) -> str:
    return UNKNOWN if own else LICENCES.get(meta["license"], UNKNOWN)


def _licence_of_weights(meta: Mapping[str, Any], own: bool) -> str:
    if own:
        return "That of the weights is unknown: whoever pretrained and publishes them states it."
    page = meta["source_page"]
    if _licence(meta, own) == UNKNOWN:
        return f"That of the weights is unknown ({meta['license']}): ask their source, {page}."
    return f"The weights are under that of their source: {meta['license']}, {page}."


def _citation(meta: Mapping[str, Any]) -> str:
    """The paper in CITATION.cff, and where to look for that of other weights."""
    paper = load_yaml(REPOSITORY / "CITATION.cff")["preferred-citation"]
    authors = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    clove = (
        f"{', '.join(authors)}: {paper['title']}. {paper['collection-title']}, {paper['year']}, "
        f"pages {paper['start']}–{paper['end']}, {paper['identifiers'][0]['value']}."
    )
    if meta["method"] == "clove":
        return clove
    return f"Of these weights: the paper that {meta['source_page']} names. Of the code: {clove}"
