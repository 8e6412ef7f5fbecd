"""The hash of the annotations of each task, by which a changed data set is noticed.

``python -m benchmarks.fingerprint`` reads the data through ``transfer``, in a process of its own,
and only when a file has changed since the last time.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.matrix import Cell, Matrix, task_config
from benchmarks.sources import data_of, read_json
from pretrain.runtime.files import write_json


def data_json(output: Path) -> Path:
    """``{task: {"key": what the data was read with, "sha256": ..., "files": {path: stamp}}}``."""
    return output / "data.json"


def known(output: Path, requests: dict[str, Any]) -> dict[str, str]:
    """The sha256 by task where neither the request nor a file has changed since it was read."""
    found = {}
    for task, entry in read_json(data_json(output)).items():
        stamps = entry["files"].items()
        if requests.get(task) == entry["key"] and all(_stamp(f) == stamp for f, stamp in stamps):
            found[task] = entry["sha256"]
    return found


def requests(matrix: Matrix, cells: Iterable[Cell]) -> dict[str, Any]:
    """What must be read to compare the data of ``cells``, by task."""
    asked = {}
    for cell in cells:
        if cell.task not in asked and data_of(cell) is not None:
            overrides = matrix.overrides | matrix.task_overrides.get(cell.task, {})
            asked[cell.task] = {
                "root": None if matrix.datasets is None else str(matrix.datasets),
                "config": str(cell.config_file or task_config(cell.task)),
                "overlay": None if cell.overlay is None else str(cell.overlay),
                "overrides": [word for pair in overrides.items() for word in pair],
            }
    return asked


def command(output: Path, asked: dict[str, Any]) -> list[str]:
    """The command that reads the data of ``asked`` and adds it to ``data_json``."""
    words = ["-m", "benchmarks.fingerprint", str(data_json(output)), json.dumps(asked)]
    return [sys.executable, *words]


def _stamp(file: str) -> list[int] | None:
    try:
        stat = Path(file).stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def main(path: str, asked: str) -> int:
    """Read the data of each task; what cannot be read is named, and left out."""
    found = read_json(Path(path))
    for task, request in json.loads(asked).items():
        found.pop(task, None)
        try:
            found[task] = {"key": request, **_read(request)}
        except ValueError as error:  # DataError and ConfigError are
            print(f"{task}: {' '.join(str(error).split())}", file=sys.stderr)
    write_json(path, found)
    return 0


def _read(request: dict[str, Any]) -> dict[str, Any]:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from transfer import data, own
    from transfer.config import resolve

    cfg = resolve(request["config"], request["overlay"], request["overrides"])
    own.register_datasets(cfg, request["config"])
    try:
        train, test = (
            [data.check(name) for name in names]
            for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
        )
        files = {str(file) for dataset in (*train, *test) for file in dataset.annotations}
        stamps = {file: _stamp(file) for file in sorted(files)}
        return {"sha256": data.fingerprint(train, test)["sha256"], "files": stamps}
    finally:
        for name in cfg.TRANSFER.DATASETS:  # another task may have them, too
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
