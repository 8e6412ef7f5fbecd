"""Runs the matrix: converts each checkpoint once, then fine-tunes cell after cell.

Every stage is a process of its own, so that this one needs no torch and ends at once when there is
nothing to do.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.matrix import Cell, Init, Matrix, backbone, load_matrix
from benchmarks.sources import (
    checkpoint_record,
    forget_record,
    is_converted,
    refuse_stale_cells,
    write_made_from,
    write_record,
)
from pretrain.runtime.config import REPOSITORY
from pretrain.runtime.files import write_json
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted, InterruptFlag
from pretrain.runtime.logging import progress_bar, setup_logger

LAST_LINES = 5  # of a failed cell's log, shown at the end


def convert_command(init: Init, output: Path) -> list[str]:
    """The command that turns a checkpoint into Detectron2's backbone."""
    command = [sys.executable, "-m", "transfer.convert"]
    return [*command, str(init.checkpoint), str(backbone(output, init)), "--method", init.method]


def fine_tune_command(cell: Cell) -> list[str]:
    """The command that fills one cell, from the start or from where it was interrupted."""
    own = cell.config_file is not None
    task = ["--config-file", str(cell.config_file)] if own else ["--task", cell.task]
    command = [sys.executable, "-m", "transfer", *task, "--weights", cell.weights]
    command += ["--output", str(cell.folder), "--seed", str(cell.seed), "--init", cell.init.name]
    if cell.overlay is not None:
        command += ["--overlay", str(cell.overlay)]
    command += ["--resume"]
    return command + [word for pair in cell.overrides.items() for word in pair]


@dataclass(frozen=True)
class Failure:
    """A command that ended badly: the rest of the matrix goes on without it."""

    name: str
    reason: str
    log: Path


@dataclass
class Run:
    """One call of ``python -m benchmarks run``."""

    matrix: Matrix
    output: Path
    logger: logging.Logger
    interrupted: InterruptFlag
    failures: list[Failure] = field(default_factory=list)

    def finish(self, cells: list[Cell], records: dict[str, dict | None]) -> None:
        """Convert what the unfinished ``cells`` start from, then run them one by one."""
        todo = [cell for cell in cells if not cell.done]
        done = len(cells) - len(todo)
        self.logger.info("%d of %d cells are done", done, len(cells))
        broken = {
            init.name
            for init in self.matrix.inits
            if any(cell.init is init for cell in todo) and not self.convert(init, records)
        }
        with progress_bar(len(cells), done, unit="cell") as bar:
            for number, cell in enumerate(todo, start=done + 1):
                if cell.init.name in broken:
                    self.logger.info("%s: left out, its weights are missing", cell.name)
                    continue
                write_made_from(cell, records[cell.init.name])
                self.fine_tune(cell, f"cell {number} of {len(cells)}", bar.set_postfix_str)
                bar.update()

    def convert(self, init: Init, records: dict[str, dict | None]) -> bool:
        """Whether the backbone of ``init`` is ready, converting its checkpoint where it is not."""
        record = records[init.name]
        if record is None:
            return True
        if not is_converted(self.output, init, record):
            forget_record(self.output, init)
            log = self.output / init.name / "convert.log"
            self.logger.info("%s: converting %s", init.name, record["checkpoint"])
            code = self.execute(convert_command(init, self.output), log)
            if code != 0:
                self.fail(f"{init.name} (conversion)", f"exit code {code}", log)
                return False
        write_record(self.output, init, record)
        return True

    def fine_tune(self, cell: Cell, position: str, show: Callable[[str], None]) -> None:
        """Run one cell; its output goes to its ``stdout.log``."""
        log, start = cell.folder / "stdout.log", time.monotonic()
        self.logger.info("%s: %s runs, log in %s", position, cell.name, log)
        code = self.execute(fine_tune_command(cell), log, show)
        spent = _duration(time.monotonic() - start)
        if cell.done:
            self.logger.info("%s: %s took %s: %s", position, cell.name, spent, _main_metric(cell))
        else:
            reason = f"exit code {code}" if code else "ended without metrics.json"
            self.fail(cell.name, f"{reason} after {spent}", log)

    def execute(
        self, command: list[str], log: Path, show: Callable[[str], None] = lambda line: None
    ) -> int:
        """Run ``command`` to its end and return its exit code; a signal to us is passed on to it.

        Raises Interrupted when one came and the command did not succeed all the same.
        """
        if self.interrupted:
            raise Interrupted
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self.matrix.datasets is not None:
            environment["DETECTRON2_DATASETS"] = str(self.matrix.datasets)
        with open(log, "a") as stream:
            print(f"$ {shlex.join(command)}", file=stream, flush=True)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,  # python -m finds the packages there
                env=environment,
            )
        try:
            told = False
            while (code := _wait(process, seconds=0.5)) is None:
                if self.interrupted and not told:
                    # Ctrl-C reached it already; a signal to us alone did not.
                    signals = ", ".join(self.interrupted.received)
                    self.logger.info("%s: waiting until it is saved", signals)
                    process.terminate()
                    told = True
                show(next(iter(_last_lines(log, 1)), ""))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code == EXIT_CODE or (code and self.interrupted):
            raise Interrupted
        return code

    def fail(self, name: str, reason: str, log: Path) -> None:
        """Remember a failure for the end, and go on."""
        self.logger.error("%s FAILED: %s, log in %s", name, reason, log)
        self.failures.append(Failure(name, reason, log))

    def report(self) -> int:
        """List what failed; the exit code of the whole run."""
        for failure in self.failures:
            last = "".join(f"\n    {line}" for line in _last_lines(failure.log, LAST_LINES))
            self.logger.error(
                "failed: %s: %s\n  %s%s", failure.name, failure.reason, failure.log, last
            )
        if self.failures:
            self.logger.error("The same command tries what failed again and keeps what is done.")
        return 1 if self.failures else 0


def run(config_file: str | Path, output: str | Path) -> int:
    """Run what is not done yet of the matrix in ``config_file``; returns the exit code.

    Raises ConfigError, before anything has run, for a config that cannot be run into ``output``.
    """
    matrix, output = load_matrix(config_file), Path(output).absolute()
    cells = matrix.cells(output)
    records = {init.name: checkpoint_record(output, init) for init in matrix.inits}
    refuse_stale_cells(cells, records)
    logger = setup_logger("benchmarks", output)
    write_json(output / "matrix.json", matrix.summary())
    with InterruptFlag() as interrupted:
        this = Run(matrix, output, logger, interrupted)
        try:
            this.finish(cells, records)
        except (Interrupted, KeyboardInterrupt):
            this.report()
            done = sum(cell.done for cell in cells)
            logger.info(
                "interrupted with %d of %d cells done; the same command goes on from here",
                done,
                len(cells),
            )
            return EXIT_CODE
        return this.report()


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def _main_metric(cell: Cell) -> str:
    """``bbox/AP 12.34``. What is wrong with a file, ``collect`` says."""
    try:
        result = json.loads((cell.folder / "metrics.json").read_text())
        return f"{result['main_metric']} {result['metrics'][result['main_metric']]:.2f}"
    except (ValueError, KeyError, TypeError):
        return "metrics.json is not readable"


def _last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something, without reading all of it."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
