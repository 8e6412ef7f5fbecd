"""Collects finished cells into tables, in four formats."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tables import latex, markdown, records
from benchmarks.tables.build import build_tables
from benchmarks.tables.published import load_published
from benchmarks.tables.results import read_folder
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_json, write_text


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turns an OSError into a ConfigError that names the place: a full disk's own names none."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{output}: not written ({error.strerror}). Make room there, or name another place"
        ) from error


def collect(folder: str | Path, output: str | Path | None = None) -> int:
    """Write the tables of the results below ``folder``, and print them; returns the exit code.

    A file that is not a result does not stop the others: it is named, and the exit code is 1. A
    corrupt one is renamed, so that ``run`` runs its cell again. A task that ``matrix.json`` asks
    for has its table before any of its cells is finished: then of published values only.

    Raises ConfigError where there is nothing to collect, and where ``output`` (default: ``folder``)
    cannot be written to.
    """
    folder = Path(folder)
    tasks = load_published()
    found = read_folder(folder, tasks, quarantine=True)
    if not (found.results or found.problems or found.matrix["tasks"]):
        raise ConfigError(
            f"{folder}: no metrics.json below it, and no matrix.json in it; "
            "python -m benchmarks run writes both"
        )
    tables = build_tables(found, tasks)
    page = markdown.page(tables, found)
    output = folder if output is None else Path(output)
    with writing(output):
        write_text(output / "RESULTS.md", page)
        write_text(output / "results.csv", records.as_csv(tables, found))
        write_json(output / "results.json", records.as_json(tables, found))
        write_text(output / "results.tex", latex.page(tables))
    print(markdown.unfolded(page), end="")
    return found.say_problems(folder)
