"""The hash of the annotations of each task, by which a changed data set is noticed.

``matrix.json`` keeps what was read, so that the data is read again only when a file has changed:
``{task: {"read_with": ..., "sha256": ..., "files": {path: [bytes, time of its last change]}}}``.
"""

import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.runner.local import DATA_ROOT
from benchmarks.runner.stages import Stage
from pretrain.runtime.config import REPOSITORY

Records = dict[str, dict[str, Any]]


def requests(stages: Iterable[Stage]) -> Records:
    """By task, how to read the data that begun or finished cells would be run on now."""
    asked = {}
    for cell in stages:
        if cell.is_cell and cell.kind not in asked and cell.state and cell.data is not None:
            root = cell.datasets or Path(os.environ.get(DATA_ROOT, "datasets")).expanduser()
            asked[cell.kind] = {
                "root": str(REPOSITORY / root),
                "config": cell.fine_tuning.config,
                "overlay": cell.fine_tuning.overlay,
                "overrides": list(cell.fine_tuning.overrides),
            }
    return asked


def unchanged(records: Mapping[str, Any], asked: Records) -> Records:
    """Those of ``records`` that were read as ``asked``, and of which no file has changed since."""
    return {
        task: record
        for task, record in records.items()
        if record["read_with"] == asked.get(task)
        and all(_stamp(file) == stamp for file, stamp in record["files"].items())
    }


def read(request: Mapping[str, Any]) -> dict[str, Any]:
    """Read the data as ``transfer`` does. Raises ConfigError and DataError, as that does."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import builtin

    from transfer import data, own
    from transfer.config import resolve

    cfg = resolve(request["config"], request["overlay"], request["overrides"])
    # Detectron2 looks where its data sets are once, when it is imported; this process may be asked
    # for several matrices, and each may have a folder of its own
    with mock.patch.dict(os.environ, {DATA_ROOT: request["root"]}):
        DatasetCatalog.clear()
        MetadataCatalog.clear()
        importlib.reload(builtin)
        data.densepose.register(data.data_root())
        own.register_datasets(cfg, request["config"])
        names = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
        train, test = ([data.check(name) for name in of] for of in names)
    files = {str(file) for dataset in (*train, *test) for file in dataset.annotations}
    return {
        "read_with": request,
        "sha256": data.fingerprint(train, test)["sha256"],
        "files": {file: _stamp(file) for file in sorted(files)},
    }


def _stamp(file: str) -> list[int] | None:
    try:
        stat = Path(file).stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
