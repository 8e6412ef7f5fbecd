"""Runs the matrix: pretraining, conversion, then cell after cell, here or on a Slurm cluster."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.published import load_published
from benchmarks.results import FORMAT, METRICS, CorruptError, ResultError, read_result, read_results
from benchmarks.runner import data, plan, slurm
from benchmarks.runner.attempt import is_locked
from benchmarks.runner.local import Local, make_slots
from benchmarks.runner.matrix import Matrix, load_matrix
from benchmarks.runner.stages import (
    Convert,
    FineTune,
    Stage,
    all_stages,
    logger,
    stages_to_do,
)
from benchmarks.runner.state import move_aside, read_json
from pretrain.runtime.config import ConfigError
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
    cells = [stage for stage in stages if isinstance(stage, FineTune)]
    at_once = slots if executor == "local" else len(stages)
    if dry_run:
        _print_plan(matrix, stages, cells, output, at_once)
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
        slurm.check(matrix, stages)
    _check_formats(cells)
    setup_logger("benchmarks", output)
    _, problems = read_results(output, load_published(), quarantine=True)
    for place, problem in problems.items():
        logger.warning("%s: %s", place, problem)
    records = _read_data(matrix, cells, output)
    stale = _stale(stages, records)
    for stage, change in stale:
        if is_locked(output, stage.name):
            raise ConfigError(
                f"{stage.name}: {change}, and it runs; stop it first, or wait for its end"
            )
    for stage, change in stale:
        logger.warning(
            "%s: %s; moved to %s, run anew", stage.name, change, move_aside(stage.folder)
        )
    todo = stages_to_do(stages)
    plan.require_disk(todo, output, at_once)
    write_json(output / "matrix.json", matrix.summary() | {"data": records})
    if executor == "slurm":
        slurm.submit(matrix, todo, output)
        return 0
    with InterruptFlag() as interrupted:
        local = Local(todo, len(cells), parts, matrix.retries, interrupted)
        try:
            local.run()
        except (Interrupted, KeyboardInterrupt):
            local.report()
            logger.info(
                "interrupted with %d of %d cells done; the same command goes on from here",
                sum(cell.done for cell in cells),
                len(cells),
            )
            return EXIT_CODE
        return local.report()


def _print_plan(
    matrix: Matrix, stages: Sequence[Stage], cells: Sequence[FineTune], output: Path, at_once: int
) -> None:
    """What ``run`` would do, and what it would do again; nothing is renamed or read anew."""
    formats, corrupt = _other_formats(cells), _corrupt(cells)
    sound = [stage for stage in stages if stage.name not in {*formats, *corrupt}]
    asked = data.requests(matrix, [cell for cell in cells if cell in sound])
    records = data.unchanged(_records(output), asked)
    stale = {stage.name: change for stage, change in _stale(sound, records)}
    print(plan.describe(matrix, stages, output, at_once, {*formats, *corrupt, *stale}))
    for name in formats:
        print(f"{name}: {METRICS} is of another format: nothing would run")
    for name, reason in corrupt.items():
        print(f"{name}: {METRICS}: {reason}: it would be set aside and the cell run again")
    for name, change in stale.items():
        if is_locked(output, name):
            print(f"{name}: {change}, and it runs: nothing would run before its end")
        else:
            print(f"{name}: {change}: it would be moved aside and run anew")
    for task in sorted(asked.keys() - records.keys()):
        print(f"{task}: the data that its cells have run on would be read first, and compared")


def _other_formats(cells: Collection[FineTune]) -> list[str]:
    """The names of the cells whose result another version has written."""
    results = {cell.name: read_json(cell.folder / METRICS) for cell in cells}
    formats = {name: result.get("format") for name, result in results.items()}
    return [name for name, found in formats.items() if type(found) is int and found != FORMAT]


def _check_formats(cells: Collection[FineTune]) -> None:
    """Raise ConfigError for results that are of no use to this version, but may be to another."""
    if names := _other_formats(cells):
        raise ConfigError(
            f"nothing was run; of another format than {FORMAT}:\n"
            + "\n".join(f"  {cell.folder / METRICS}" for cell in cells if cell.name in names)
            + "\nUpdate this checkout to the version that wrote them, or choose another --output"
        )


def _corrupt(cells: Collection[FineTune]) -> dict[str, str]:
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


def _stale(stages: Collection[Stage], records: Mapping[str, dict]) -> list[tuple[Stage, str]]:
    """The stages that were made from something else than the config names now, and what.

    A cell is compared with the checkpoint as it lies there now, which may not be converted yet.
    """
    begun = [stage for stage in stages if stage.state]
    inits = {stage.init.name for stage in begun if isinstance(stage, FineTune)}
    sources = {
        stage.init.name: stage.made_from()
        for stage in stages
        if isinstance(stage, Convert) and stage.init.name in inits
    }
    stale = []
    for stage in begun:
        change = stage.stale
        if isinstance(stage, FineTune):
            sha256 = records.get(stage.kind, {}).get("sha256")
            change = stage.changed(sources.get(stage.init.name, {}), sha256)
        if change:
            stale.append((stage, change))
    return stale


def _records(output: Path) -> data.Records:
    return read_json(output / "matrix.json").get("data", {})


def _read_data(matrix: Matrix, cells: Sequence[FineTune], output: Path) -> data.Records:
    """Read the annotations of tasks with results, where they may differ from the last time."""
    asked = data.requests(matrix, cells)
    records = data.unchanged(_records(output), asked)
    for task in sorted(asked.keys() - records.keys()):
        logger.info("%s: reading the data that cells have run on", task)
        try:
            records[task] = data.read(asked[task])
        except ValueError as error:  # as DataError and ConfigError are
            reason = " ".join(str(error).split())
            logger.warning(
                "%s: its data could not be compared, its cells are kept: %s", task, reason
            )
    return records
