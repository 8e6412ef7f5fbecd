"""The stages of a matrix: pretraining, conversion, fine-tuning; each a command and what it leaves.

A stage holds all that is needed to run it, so that it runs here or in a job on another machine.
"""

import contextlib
import fcntl
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.matrix import CONVERT, PRETRAIN, Cell, Init, Matrix, backbone
from benchmarks.sources import (
    backbone_record,
    begin_record,
    is_converted,
    keep_record,
    move_aside,
    read_json,
    request_json,
    stale_cells,
    write_made_from,
)
from pretrain.runtime.config import REPOSITORY
from pretrain.runtime.files import list_checkpoints, write_json

PICTURES = 2  # of a cell, for the report
DATA_ROOT = "DETECTRON2_DATASETS"
CANNOT = 2  # the exit code for input that cannot be used: trying again would not help
PATIENCE = 60  # seconds that a stage that is to end has to save itself
# Slurm sends SIGUSR2 to all processes of a job; torchrun would die of it before its own are saved
WITHOUT_USR2 = """trap '' USR2; exec "$0" "$@\""""

logger = logging.getLogger("benchmarks")


def pretrain_command(init: Init, output: Path) -> list[str]:
    """The command that trains the checkpoint of ``init``, from the start or from where it was."""
    command = [sys.executable, "-m", "pretrain", "--config-file", init.pretrain.config, "--resume"]
    return [*command, "OUTPUT_DIR", str(init.source(output)), *init.pretrain.words]


def convert_command(init: Init, output: Path) -> list[str]:
    """The command that turns a checkpoint into Detectron2's backbone."""
    command = [sys.executable, "-m", "transfer.convert", str(init.source(output))]
    return [*command, str(backbone(output, init)), "--method", init.method]


def fine_tune_command(cell: Cell) -> list[str]:
    """The command that fills one cell, from the start or from where it was interrupted."""
    own = cell.config_file is not None
    task = ["--config-file", str(cell.config_file)] if own else ["--task", cell.task]
    command = [sys.executable, "-m", "transfer", *task, "--weights", cell.weights]
    command += ["--output", str(cell.folder), "--seed", str(cell.seed), "--init", cell.init.name]
    if cell.overlay is not None:
        command += ["--overlay", str(cell.overlay)]
    command += ["--resume", "--visualize", str(PICTURES), str(cell.folder / "pictures")]
    return command + [word for pair in cell.overrides.items() for word in pair]


@dataclass(frozen=True)
class Stage(ABC):
    """One command of the matrix."""

    name: str
    kind: str  # pretrain, convert or the task: what its resources go by
    output: Path  # of the whole matrix
    init: Init
    log: Path
    command: list[str]  # for one process
    processes: int  # at most; they divide this number
    needs: str | None  # the stage before
    datasets: Path | None

    @property
    def lock(self) -> Path:
        """Locked while a process works on the stage, whoever started it."""
        return lock_of(self.output, self.name)

    @property
    def failed(self) -> Path:
        """There while the last attempt has failed."""
        return self.log.with_suffix(".failed")

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether it has left what it should."""

    @property
    def stale(self) -> str | None:
        """From what else it was made than it would be now; None where nothing differs."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Before the command."""

    def conclude(self) -> None:  # noqa: B027  (a cell's command leaves all that there is to say)
        """After the command has ended with 0."""


class Pretrain(Stage):
    """``python -m pretrain``."""

    @property
    def done(self) -> bool:
        request = read_json(request_json(self.output, self.init))
        return request.get("done") is True and bool(list_checkpoints(self.init.source(self.output)))

    def prepare(self) -> None:
        self._write(done=False)

    def conclude(self) -> None:
        self._write(done=True)

    def _write(self, done: bool) -> None:
        request = {"settings": self.init.pretrain.settings, "done": done}
        write_json(request_json(self.output, self.init), request)


class Convert(Stage):
    """``python -m transfer.convert``."""

    @property
    def done(self) -> bool:
        return is_converted(self.output, self.init)

    def prepare(self) -> None:
        begin_record(self.output, self.init)

    def conclude(self) -> None:
        keep_record(self.output, self.init)


@dataclass(frozen=True)
class FineTune(Stage):
    """``python -m transfer``."""

    cell: Cell

    @property
    def done(self) -> bool:
        return self.cell.done

    @property
    def stale(self) -> str | None:
        """Weights trained meanwhile may differ, or the settings of another process that began."""
        records = {self.init.name: backbone_record(self.output, self.init)}
        changes = [change for _, change in stale_cells([self.cell], records, {})]
        return changes[0] if changes else None

    def prepare(self) -> None:
        if change := self.stale:
            logger.warning("%s: %s; moved to %s", self.name, change, move_aside(self.cell.folder))
        write_made_from(self.output, self.cell)


def all_stages(matrix: Matrix, output: Path) -> list[Stage]:
    """All stages of a matrix, each after the one that it needs."""
    stages: list[Stage] = []
    for init in matrix.inits:
        shared = {"output": output, "init": init, "datasets": matrix.datasets}
        folder = output / init.name
        if PRETRAIN in init.stages:
            stages.append(
                Pretrain(
                    name=f"{init.name}/{PRETRAIN}",
                    kind=PRETRAIN,
                    log=folder / "pretrain.log",
                    command=pretrain_command(init, output),
                    processes=init.pretrain.processes,
                    needs=None,
                    **shared,
                )
            )
        if CONVERT in init.stages:
            stages.append(
                Convert(
                    name=f"{init.name}/{CONVERT}",
                    kind=CONVERT,
                    log=folder / "convert.log",
                    command=convert_command(init, output),
                    processes=1,
                    needs=f"{init.name}/{PRETRAIN}" if PRETRAIN in init.stages else None,
                    **shared,
                )
            )
    return stages + [_fine_tune(cell, output, matrix.datasets) for cell in matrix.cells(output)]


def needed(stages: Sequence[Stage]) -> list[Stage]:
    """The cells, and of what comes before them that which an unfinished one waits for."""
    kept, wanted = [], set()
    for stage in reversed(stages):
        if isinstance(stage, FineTune) or stage.name in wanted:
            kept.append(stage)
            if not stage.done:
                wanted.add(stage.needs)
    return kept[::-1]


def _fine_tune(cell: Cell, output: Path, datasets: Path | None) -> FineTune:
    on_cpu = cell.overrides.get("MODEL.DEVICE") == "cpu"
    return FineTune(
        name=cell.name,
        kind=cell.task,
        output=output,
        init=cell.init,
        log=cell.folder / "stdout.log",
        command=fine_tune_command(cell),
        processes=1 if on_cpu else cell.images_per_batch,
        needs=f"{cell.init.name}/{CONVERT}" if CONVERT in cell.init.stages else None,
        datasets=datasets,
        cell=cell,
    )


class Attempt:
    """The command of a stage at work, in a process of its own that holds the stage's lock."""

    def __init__(self, stage: Stage, gpus: int, environment: Mapping[str, str], lock: IO) -> None:
        """Raises OSError where it cannot be started; the lock is held until then."""
        self.stage, self.lock, self.started = stage, lock, time.monotonic()
        stage.prepare()
        stage.failed.unlink(missing_ok=True)
        command = _spread(stage.command, stage.processes, gpus)
        if stage.datasets is not None:
            environment = {**environment, DATA_ROOT: str(stage.datasets)}
        said = shlex.join(command)
        if DATA_ROOT in environment:
            said = f"{DATA_ROOT}={shlex.quote(environment[DATA_ROOT])} {said}"
        lock.truncate(0)
        gpus_used = environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
        json.dump({"host": socket.gethostname(), "gpus": gpus_used}, lock)
        lock.flush()
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        with open(stage.log, "a") as stream:
            print(f"$ {said}", file=stream, flush=True)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,  # python -m finds the packages there
                env=environment,
                pass_fds=[lock.fileno()],  # so that it is held even when this process is killed
            )

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        return self.process.poll()

    def end(self, code: int) -> str | None:
        """To be called once with the exit code; what went wrong, or None."""
        with self.lock:
            if code == 0:
                self.stage.conclude()
        if self.stage.done:
            return None
        reason = f"exit code {code}" if code else "ended without what it should leave"
        reason = f"{reason} after {self.duration}"
        write_json(self.stage.failed, {"reason": reason, "exit_code": code})
        return reason

    @property
    def duration(self) -> str:
        """How long it has taken."""
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"

    def kill(self) -> None:
        """Have it end, torchrun after its processes; saved, if that takes no longer than
        PATIENCE."""
        if self.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def gpus_held(stage: Stage) -> set[str]:
    """The GPUs of this machine that a process of an earlier run uses for the stage."""
    held = read_json(stage.lock)
    here = held.get("host") == socket.gethostname() and is_locked(stage.lock)
    return set(held["gpus"]) if here else set()


def lock_of(output: Path, name: str) -> Path:
    """The lock file of a stage; not in its own folder, which may be moved aside."""
    return output / ".locks" / f"{name}.lock"


def take_lock(stage: Stage) -> IO | None:
    """The stage's lock file, locked; None while another process works on the stage."""
    stage.lock.parent.mkdir(parents=True, exist_ok=True)
    file = open(stage.lock, "a")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    file.close()
    return None


def is_locked(lock: Path) -> bool:
    """Whether a process works on the stage of that lock file."""
    try:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something, without reading all of it; none if it cannot be
    read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            text = file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _spread(command: list[str], processes: int, gpus: int) -> list[str]:
    """Over as many GPUs as divide the images of a batch."""
    count = max(n for n in range(1, max(gpus, 1) + 1) if processes % n == 0)
    if count == 1:
        return command
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return ["sh", "-c", WITHOUT_USR2, command[0], *torchrun, *command[1:]]
