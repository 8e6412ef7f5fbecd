"""Whether ``python -m transfer`` takes the settings of each cell, asked before anything runs.

``python -m benchmarks.settings`` resolves them through ``transfer``, in a process of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterable

from benchmarks.matrix import Cell, Matrix, task_config
from pretrain.runtime.config import REPOSITORY, ConfigError

REFUSED = 2  # the exit code that says so, and no other failure
Request = list[str | None]  # a cell's name without its seed, config, overlay, KEY VALUE ...


def check(matrix: Matrix, cells: Iterable[Cell]) -> str | None:
    """Raise ConfigError for settings of ``cells`` that every run of them would end at.

    Returns why that could not be found out, or None where it was. An import of Detectron2 is in it.
    """
    asked: dict[tuple, str] = {}
    for cell in cells:
        config = str(cell.config_file or task_config(cell.task))
        overlay = None if cell.overlay is None else str(cell.overlay)
        words = [word for pair in cell.overrides.items() for word in pair]
        asked.setdefault((config, overlay, *words), f"{cell.init.name}/{cell.task}")
    if not asked:
        return None
    said = subprocess.run(
        command([[name, *request] for request, name in asked.items()]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,  # python -m finds the packages there
        check=False,
    )
    last = (said.stderr.strip() or f"exit code {said.returncode}").splitlines()[-1]
    if said.returncode == REFUSED:
        raise ConfigError(f"{matrix.config}: {last}")
    return last if said.returncode else None


def command(requests: list[Request]) -> list[str]:
    """The command that ends with REFUSED, and says why, at the first that cannot be resolved."""
    return [sys.executable, "-m", "benchmarks.settings", json.dumps(requests)]


def main(requests: str) -> int:
    """Resolve each of ``requests``, which are JSON."""
    from transfer.config import resolve

    for name, config, overlay, *words in json.loads(requests):
        try:
            resolve(config, overlay, words)
        except ConfigError as error:
            reason = " ".join(str(error).removeprefix("command line: ").split())
            print(f"{name}: {reason}", file=sys.stderr)
            return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
