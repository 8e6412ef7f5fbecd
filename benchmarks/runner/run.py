"""Runs the matrix: pretraining, conversion, then cell after cell, here or on a Slurm cluster."""

from collections.abc import Collection, Mapping
from pathlib import Path

from benchmarks.runner import data, plan, slurm
from benchmarks.runner.local import Local, make_slots
from benchmarks.runner.matrix import CONVERT, load_matrix
from benchmarks.runner.stages import Stage, all_stages, logger, stages_to_do
from benchmarks.runner.state import MATRIX, changes, is_locked, move_aside, read_json
from benchmarks.tables.published import load_published
from benchmarks.tables.results import read_results
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
    cells = [stage for stage in stages if stage.is_cell]
    at_once = slots if executor == "local" else len(stages)
    asked = data.requests(stages)
    records = data.unchanged(read_json(output / MATRIX).get("data", {}), asked)
    if dry_run:
        stale = _stale(stages, records)
        print(plan.describe(matrix, stages, output, at_once, {stage.name for stage, _ in stale}))
        for stage, change in stale:
            runs = is_locked(output, stage.name)
            then = "it runs: nothing would run before its end" if runs else "it would be run anew"
            print(f"{stage.name}: {change}; {then}")
        for task in sorted(asked.keys() - records.keys()):
            print(f"{task}: the data that its cells have run on would be read first, and compared")
        return 0
    if missing := matrix.missing():
        raise ConfigError(
            f"{matrix.config}: nothing was run; missing:\n"
            + "\n".join(f"  {m}" for m in missing)
            + "\nPaths start at the repository. A checkpoint is a file or the folder of a run of "
            "python -m pretrain"
        )
    if executor == "slurm":
        resources = slurm.check(matrix, stages)
    else:
        parts = make_slots(slots)
    setup_logger("benchmarks", output)
    _, problems = read_results(output, load_published(), quarantine=True)
    for place, problem in problems.items():
        logger.warning("%s: %s", place, problem)
    for task in sorted(asked.keys() - records.keys()):
        logger.info("%s: reading the data that cells have run on", task)
        try:
            records[task] = data.read(asked[task])
        except ValueError as error:  # as DataError and ConfigError are
            reason = " ".join(str(error).split())
            logger.warning("%s: not compared, its cells are kept: %s", task, reason)
    stale = _stale(stages, records)
    for stage, change in stale:
        if is_locked(output, stage.name):
            raise ConfigError(
                f"{stage.name}: {change}, and it runs; stop it first, or wait for its end"
            )
    for stage, change in stale:
        aside = move_aside(stage.folder)
        logger.warning("%s: %s; moved to %s, run anew", stage.name, change, aside)
    todo = stages_to_do(stages)
    plan.require_disk(todo, output, at_once)
    write_json(output / MATRIX, matrix.summary() | {"data": records})
    if executor == "slurm":
        slurm.submit(matrix, todo, resources, output)
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


def _stale(stages: Collection[Stage], records: Mapping[str, dict]) -> list[tuple[Stage, str]]:
    """The begun runs that were made from something else than the config names now, and what."""
    stale = []
    for stage in stages:
        if stage.kind == CONVERT or not stage.state:  # a backbone is written over
            continue
        change = changes(stage.made_from(ahead=True), stage.state.get("made_from", {}))
        now = records.get(stage.kind, {}).get("sha256")
        if now and stage.data not in (None, now):
            change = f"{change}, another data set" if change else "another data set"
        if change:
            stale.append((stage, change))
    return stale
