"""Collects finished cells into tables, in four formats; needs neither torch nor Detectron2."""

import sys
from pathlib import Path

from benchmarks import latex, markdown, records
from benchmarks.published import PUBLISHED_YAML, load_published
from benchmarks.results import (
    ResultError,
    missing_cells,
    read_matrix,
    read_results,
    with_epochs,
)
from benchmarks.tables import build_tables
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_json, write_text


def collect(
    folder: str | Path, published: str | Path = PUBLISHED_YAML, output: str | Path | None = None
) -> int:
    """Write the tables of the results below ``folder``, and print them; returns the exit code.

    A file that is not a result does not stop the others: it is named, and the exit code is 1. A
    corrupt one is renamed, so that ``run`` runs its cell again. A task that ``matrix.json`` asks
    for has its table before any of its cells is finished: then of published values only.

    Raises ConfigError where there is nothing to collect, for a ``published`` that cannot be used,
    and where ``output`` (default: ``folder``) cannot be written to.
    """
    folder = Path(folder)
    tasks = load_published(published)
    results, problems = read_results(folder, tasks, quarantine=True)
    matrix = None
    try:
        matrix = read_matrix(folder)
    except ResultError as error:
        problems[Path("matrix.json")] = str(error)
    if not (results or problems or matrix):
        raise ConfigError(
            f"{folder}: no metrics.json below it, and no matrix.json in it; "
            "python -m benchmarks run writes both"
        )
    results = [with_epochs(result, matrix) for result in results]
    tables, missing = build_tables(results, tasks, matrix), missing_cells(results, matrix)
    page = markdown.page(tables, problems, missing)
    output = folder if output is None else Path(output)
    try:
        write_text(output / "RESULTS.md", page)
        write_text(output / "results.csv", records.as_csv(tables, missing))
        write_json(output / "results.json", records.as_json(tables, problems, missing))
        write_text(output / "results.tex", latex.page(tables))
    except OSError as error:
        raise ConfigError(
            f"{output}: tables not written ({error.strerror}). Make room there, or name another "
            "folder with --output"
        ) from error
    print(page, end="")
    for path, problem in problems.items():
        print(f"not collected: {folder / path}: {problem}", file=sys.stderr)
    return 1 if problems else 0
