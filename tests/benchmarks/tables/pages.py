"""Reads what ``collect`` writes, and writes what it reads beside cells."""

import csv
import json
from pathlib import Path
from typing import Any

RANDOM = {"method": "random", "epochs": None}  # an init of a matrix


def page_of(folder: Path) -> str:
    return (folder / "RESULTS.md").read_text()


def table_rows(page: str, heading: str = "### `bbox/AP`") -> list[dict[str, str]]:
    """The lines of the first table below ``heading``, by the names of their columns."""
    lines = page[page.index(heading) :].splitlines()
    lines = [line for line in lines if line.startswith(("|", "###"))][1:]
    end = next((number for number, line in enumerate(lines) if line.startswith("#")), len(lines))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def csv_lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv") as file:
        return list(csv.DictReader(file))


def write_matrix(folder: Path, tasks: list[str], inits: dict[str, Any], seeds: list[int]) -> Path:
    """As ``run`` writes it before its first cell."""
    content = {"format": 1, "config": "x.yaml", "inits": inits, "tasks": tasks}
    content["seeds"] = dict.fromkeys(tasks, seeds)
    path = folder / "matrix.json"
    path.write_text(json.dumps(content))
    return path


def row_of(page: str, init: str, heading: str = "### `bbox/AP`", **cells: str) -> dict[str, str]:
    """The one line of an init that has ``cells``, too."""
    wanted = ({"init": init} | cells).items()
    (row,) = [row for row in table_rows(page, heading) if wanted <= row.items()]
    return row
