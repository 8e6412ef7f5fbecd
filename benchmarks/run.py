"""Runs the matrix: pretraining, conversion, then cell after cell, here or on a Slurm cluster.

Every stage is a process of its own, so that this one needs no torch and ends at once when there is
nothing to do.
"""

import os
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks import cluster, fingerprint, plan, settings
from benchmarks.executors import Local, make_slots
from benchmarks.matrix import PRETRAIN, Cell, Matrix, load_matrix
from benchmarks.sources import (
    checkpoint_record,
    is_converted,
    move_aside,
    read_json,
    stale_cells,
    stale_pretraining,
    write_record,
)
from benchmarks.stages import DATA_ROOT, Stage, all_stages, is_locked, lock_of, logger, needed
from benchmarks.tables.published import load_published
from benchmarks.tables.results import (
    FORMAT,
    METRICS,
    CorruptError,
    ResultError,
    read_result,
    read_results,
)
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
        _print_plan(matrix, stages, output, at_once)
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
    cells = matrix.cells(output)
    _check_formats(cells)
    setup_logger("benchmarks", output)
    _, problems = read_results(output, load_published(), quarantine=True)
    for place, problem in problems.items():
        logger.warning("%s: %s", place, problem)
    _read_data(matrix, output)
    stale = _stale(matrix, cells, output)
    for name, (_, change) in stale.items():
        if is_locked(lock_of(output, name)):
            raise ConfigError(f"{name}: {change}, and it runs; stop it first, or wait for its end")
    if problem := settings.check(matrix, [cell for cell in cells if _begins(cell, stale)]):
        logger.warning("not known whether the settings can be used: %s", problem)
    for name, (folder, change) in stale.items():
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


def _begins(cell: Cell, stale: Collection[str]) -> bool:
    """Whether it would run for the first time with these settings."""
    return cell.name in stale or not (cell.done or (cell.folder / "cell.json").is_file())


def _print_plan(matrix: Matrix, stages: Sequence[Stage], output: Path, at_once: int) -> None:
    """What ``run`` would do, and what it would do again; nothing is renamed or read anew."""
    cells = matrix.cells(output)
    formats, corrupt = _other_formats(cells), _corrupt(cells)
    sound = [cell for cell in cells if cell.name not in {*formats, *corrupt}]
    stale = _stale(matrix, sound, output)
    print(plan.describe(matrix, stages, output, at_once, {*formats, *corrupt, *stale}))
    for name in formats:
        print(f"{name}: {METRICS} is of another format: nothing would run")
    for name, reason in corrupt.items():
        print(f"{name}: {METRICS}: {reason}: it would be set aside and the cell run again")
    for name, (_, change) in stale.items():
        if is_locked(lock_of(output, name)):
            print(f"{name}: {change}, and it runs: nothing would run before its end")
        else:
            print(f"{name}: {change}: it would be moved aside and run anew")
    asked = fingerprint.requests(matrix, sound)
    for task in sorted(asked.keys() - fingerprint.known(output, asked).keys()):
        print(f"{task}: the data that its cells have run on would be read first, and compared")


def _other_formats(cells: Collection[Cell]) -> list[str]:
    """The names of the cells whose result another version has written."""
    results = {cell.name: read_json(cell.folder / METRICS) for cell in cells}
    formats = {name: result.get("format") for name, result in results.items()}
    return [name for name, found in formats.items() if type(found) is int and found != FORMAT]


def _check_formats(cells: Collection[Cell]) -> None:
    """Raise ConfigError for results that are of no use to this version, but may be to another."""
    if names := _other_formats(cells):
        raise ConfigError(
            f"nothing was run; of another format than {FORMAT}:\n"
            + "\n".join(f"  {cell.folder / METRICS}" for cell in cells if cell.name in names)
            + "\nUpdate this checkout to the version that wrote them, or choose another --output"
        )


def _corrupt(cells: Collection[Cell]) -> dict[str, str]:
    """By name the cells whose result would be set aside, and why."""
    corrupt = {}
    for cell in cells:
        if cell.done:
            try:
                read_result(cell.folder / METRICS, (*cell.name.split("/"), METRICS))
            except CorruptError as error:
                corrupt[cell.name] = str(error)
            except ResultError:
                pass  # kept; `collect` says what is wrong
    return corrupt


def _stale(matrix: Matrix, cells: Collection[Cell], output: Path) -> dict[str, tuple[Path, str]]:
    """By name the folders that were made from something else than the config names now, and what;
    of ``cells`` and all pretraining."""
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
    return stale | {cell.name: (cell.folder, change) for cell, change in changes}


def _read_data(matrix: Matrix, output: Path) -> None:
    """Read the annotations of tasks with results, where they may differ from the last time."""
    asked = fingerprint.requests(matrix, matrix.cells(output))
    unknown = {task: asked[task] for task in asked.keys() - fingerprint.known(output, asked).keys()}
    if not unknown:
        return
    logger.info("%s: reading the data that cells have run on", ", ".join(sorted(unknown)))
    environment = dict(os.environ)
    if matrix.datasets is not None:
        environment[DATA_ROOT] = str(matrix.datasets)
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
