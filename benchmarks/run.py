"""Runs the matrix: pretraining, conversion, then cell after cell, here or on a Slurm cluster.

Every stage is a process of its own, so that this one needs no torch and ends at once when there is
nothing to do.
"""

import os
import subprocess
from pathlib import Path

from benchmarks import cluster, fingerprint, plan
from benchmarks.executors import Local, make_slots
from benchmarks.matrix import PRETRAIN, Matrix, load_matrix
from benchmarks.sources import (
    checkpoint_record,
    is_converted,
    move_aside,
    stale_cells,
    stale_pretraining,
    write_record,
)
from benchmarks.stages import all_stages, is_locked, lock_of, logger, needed
from pretrain.runtime.config import REPOSITORY, ConfigError
from pretrain.runtime.files import write_json
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted, InterruptFlag
from pretrain.runtime.logging import setup_logger


def run(
    config_file: str | Path,
    output: str | Path,
    executor: str = "local",
    slots: int = 1,
    dry_run: bool = False,
) -> int:
    """Run, queue or only plan what is not done yet of a matrix; returns the exit code.

    Raises ConfigError, before anything has run, for a config that cannot be run into ``output``.
    """
    matrix, output = load_matrix(config_file), Path(output).absolute()
    stages = all_stages(matrix, output)
    at_once = slots if executor == "local" else len(stages)
    if dry_run:
        print(plan.describe(matrix, needed(stages), output, at_once))
        for name, (_, change) in _stale(matrix, output).items():
            print(f"{name}: {change}: it would be moved aside and run anew")
        return 0
    if missing := matrix.missing():
        raise ConfigError(
            f"{matrix.config}: nothing was run; missing:\n"
            + "\n".join(f"  {m}" for m in missing)
            + "\nPaths start at the repository. A checkpoint is a file or the folder of a run of "
            "python -m pretrain"
        )
    parts = make_slots(slots) if executor == "local" else []
    if executor == "slurm":
        cluster.check(matrix, stages)
    setup_logger("benchmarks", output)
    _read_data(matrix, output)
    for name, (folder, change) in _stale(matrix, output).items():
        logger.warning("%s: %s; moved to %s, run anew", name, change, move_aside(folder))
    stages = needed(stages)
    plan.require_disk(stages, output, at_once)
    for init in matrix.inits:
        if is_converted(output, init):
            write_record(output, init)  # the same bytes may have another time
    write_json(output / "matrix.json", matrix.summary())
    if executor == "slurm":
        cluster.submit(matrix, stages, output)
        return 0
    with InterruptFlag() as interrupted:
        local = Local(stages, parts, matrix.retries, interrupted)
        try:
            local.run()
        except (Interrupted, KeyboardInterrupt):
            local.report()
            done = sum(cell.done for cell in matrix.cells(output))
            logger.info(
                "interrupted with %d of %d cells done; the same command goes on from here",
                done,
                len(local.cells),
            )
            return EXIT_CODE
        return local.report()


def _stale(matrix: Matrix, output: Path) -> dict[str, tuple[Path, str]]:
    """By name the folders that were made from something else than the config names now, and what.

    Raises ConfigError where one of them is being worked on.
    """
    cells = matrix.cells(output)
    stale = {
        f"{init.name}/{PRETRAIN}": (init.source(output), change)
        for init in matrix.inits
        if (change := stale_pretraining(output, init))
    }
    begun = {cell.init.name for cell in cells if (cell.folder / "cell.json").is_file()}
    records = {
        init.name: checkpoint_record(output, init) for init in matrix.inits if init.name in begun
    }
    data = fingerprint.known(output, fingerprint.requests(matrix, cells))
    changes = stale_cells(cells, records, data)
    stale |= {cell.name: (cell.folder, change) for cell, change in changes}
    for name, (_, change) in stale.items():
        if is_locked(lock_of(output, name)):
            raise ConfigError(f"{name}: {change}, and it runs; stop it first, or wait for its end")
    return stale


def _read_data(matrix: Matrix, output: Path) -> None:
    """Read the annotations of tasks with results, where they may differ from the last time."""
    asked = fingerprint.requests(matrix, matrix.cells(output))
    unknown = {task: asked[task] for task in asked.keys() - fingerprint.known(output, asked).keys()}
    if not unknown:
        return
    logger.info("%s: reading the data that cells have run on", ", ".join(sorted(unknown)))
    environment = dict(os.environ)
    if matrix.datasets is not None:
        environment["DETECTRON2_DATASETS"] = str(matrix.datasets)
    log = output / "data.log"
    with open(log, "w") as stream:
        subprocess.run(
            fingerprint.command(output, unknown),
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=environment,
            check=False,
        )
    for task in sorted(unknown.keys() - fingerprint.known(output, asked).keys()):
        logger.warning("%s: its data could not be compared, its cells are kept; see %s", task, log)
