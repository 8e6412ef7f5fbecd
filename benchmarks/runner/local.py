"""Runs stages on this machine, as many at once as it has slots."""

import os
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import IO, NamedTuple

import torch

from benchmarks.runner.stages import Stage, logger
from benchmarks.runner.state import METRICS, read_json, take_lock
from pretrain.runtime.config import REPOSITORY, ConfigError
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted, InterruptFlag
from pretrain.runtime.logging import progress_bar

DATA_ROOT = "DETECTRON2_DATASETS"
CANNOT = 2  # the exit code for input that cannot be used: trying again would not help
PATIENCE = 60  # seconds that a stage that is to end has to save itself
PERIOD = 0.2  # seconds between two looks
# Slurm sends SIGUSR2 to all processes of a job; torchrun would die of it before its own are saved
WITHOUT_USR2 = """trap '' USR2; exec "$0" "$@\""""


class Slot(NamedTuple):
    """Where one stage at a time runs."""

    environment: Mapping[str, str]
    gpus: int


def make_slots(count: int, environment: Mapping[str, str] = os.environ) -> list[Slot]:
    """``count`` equal parts of this machine's GPUs, or of its cores where it has none."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        visible = ",".join(str(number) for number in range(torch.cuda.device_count()))
    gpus = [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
    each = len(gpus) // max(count, 1)
    if count < 1 or (gpus and not each):
        raise ConfigError(f"--slots {count}: 1 at least; each has whole GPUs, of {len(gpus)} here")
    if not gpus:
        own = {} if count == 1 else {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1))}
        return [Slot({**own, **environment}, 0) for _ in range(count)]
    parts = [gpus[n * each : (n + 1) * each] for n in range(count)]
    return [Slot({**environment, "CUDA_VISIBLE_DEVICES": ",".join(p)}, each) for p in parts]


class Attempt:
    """Once the command of a stage, which prints to the stage's log."""

    def __init__(self, stage: Stage, slot: Slot, lock: IO) -> None:
        """The lock is held until ``end``."""
        self.stage, self.lock, self.started = stage, lock, time.monotonic()
        stage.begin()
        command, environment = _spread(stage.command, stage.processes, slot.gpus), slot.environment
        if stage.datasets is not None:
            environment = {**environment, DATA_ROOT: str(stage.datasets)}
        said = shlex.join(command)
        if DATA_ROOT in environment:
            said = f"{DATA_ROOT}={shlex.quote(environment[DATA_ROOT])} {said}"
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

    def end(self, code: int) -> str | None:
        """To be called once with the exit code; what went wrong, or None."""
        with self.lock:
            if code == 0:
                self.stage.end(None)
            if self.stage.done:
                return None
            reason = f"exit code {code}" if code else "ended without what it should leave"
            reason = f"{reason} after {self.duration}"
            self.stage.end(reason)
            return reason

    @property
    def duration(self) -> str:
        """How long it has taken, as hours:minutes:seconds."""
        return str(timedelta(seconds=round(time.monotonic() - self.started)))

    def kill(self) -> None:
        """Have it end, torchrun after its processes; saved, if that takes no longer than
        PATIENCE."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Local:
    """Stages on this machine, until all are done, have failed or are interrupted.

    todo: the stages to run, each after the one that it needs, if that is to be run, too.
    cells: how many the matrix has, those that are done among them.
    """

    def __init__(
        self,
        todo: Sequence[Stage],
        cells: int,
        slots: Sequence[Slot],
        retries: int,
        interrupted: InterruptFlag,
    ) -> None:
        self.waiting, self.cells, self.slots = list(todo), cells, slots
        self.retries, self.interrupted = retries, interrupted
        self.pending = {stage.name for stage in todo}  # neither done nor given up
        self.running: dict[int, Attempt] = {}  # by slot
        self.attempts: Counter[str] = Counter()  # that have failed
        self.failures: list[tuple[Stage, str]] = []  # and why
        self.gone: set[str] = set()  # failed, or left out
        self.told: set[str] = set()  # stages that another process works on

    def run(self) -> None:
        """Run what is not done. Raises Interrupted after a signal, once everything is saved."""
        done = self.cells - sum(stage.is_cell for stage in self.waiting)
        logger.info("%d of %d cells are done", done, self.cells)
        with progress_bar(self.cells, done, unit="cell") as bar:
            try:
                while self.waiting or self.running:
                    if self.interrupted:
                        raise self.save()
                    for number, slot in enumerate(self.slots):
                        if number not in self.running:
                            self.start_next(number, slot)
                    time.sleep(PERIOD)
                    for number, attempt in list(self.running.items()):
                        if (code := attempt.process.poll()) is not None:
                            del self.running[number]
                            done = self.end(attempt, code)
                            bar.update(done and attempt.stage.is_cell)
            finally:
                for attempt in self.running.values():
                    attempt.kill()

    def start_next(self, number: int, slot: Slot) -> None:
        """Start the first stage that can run in that slot."""
        for stage in list(self.waiting):
            if stage.needs in self.gone:
                logger.info("%s: left out, %s is missing", stage.name, stage.needs)
                self.waiting.remove(stage)
                self.gone.add(stage.name)
                continue
            if stage.needs in self.pending:
                continue
            if (lock := take_lock(stage.output, stage.name)) is None:
                if stage.name not in self.told:
                    logger.info("%s: another process works on it; waiting for that", stage.name)
                    self.told.add(stage.name)
                continue
            self.waiting.remove(stage)
            if stage.done and not stage.stale:  # another process has done it meanwhile
                lock.close()
                self.pending.remove(stage.name)
                return
            again = self.attempts[stage.name]
            attempt = f", attempt {again + 1}" if again else ""
            logger.info("%s runs%s, log in %s", stage.name, attempt, stage.log)
            self.running[number] = Attempt(stage, slot, lock)
            return

    def end(self, attempt: Attempt, code: int) -> bool:
        """Whether the stage is done; else it is tried again after the others, or has failed.

        Raises Interrupted where it saved itself, after a signal that we need not have received.
        """
        stage = attempt.stage
        if code == EXIT_CODE or (code and self.interrupted):
            attempt.lock.close()
            raise self.save()
        reason = attempt.end(code)
        if reason is None:
            self.pending.remove(stage.name)
            logger.info("%s took %s%s", stage.name, attempt.duration, _main_metric(stage))
            return True
        self.attempts[stage.name] += 1
        if code != CANNOT and self.attempts[stage.name] <= self.retries:
            logger.warning("%s: %s; it is tried again", stage.name, reason)
            self.waiting.append(stage)
        else:
            logger.error("%s FAILED: %s, log in %s", stage.name, reason, stage.log)
            self.failures.append((stage, reason))
            self.gone.add(stage.name)
        return False

    def save(self) -> Interrupted:
        """Wait until all that runs is saved; what there is to raise then."""
        for attempt in self.running.values():
            # Ctrl-C reached it already; a signal to us alone did not.
            logger.info("interrupted: waiting until %s is saved", attempt.stage.name)
            attempt.process.terminate()
        for number, attempt in list(self.running.items()):
            code = attempt.process.wait()
            del self.running[number]
            if code == 0:  # it came to its end
                attempt.end(code)
            attempt.lock.close()
        return Interrupted("interrupted", self.interrupted.received)

    def report(self) -> int:
        """List what failed; the exit code of the whole run."""
        for stage, reason in self.failures:
            last = "\n    ".join([str(stage.log), *stage.state["last_lines"]])
            logger.error("failed: %s: %s\n  %s", stage.name, reason, last)
        if self.failures:
            logger.error("The same command tries what failed again and keeps what is done.")
        return 1 if self.failures else 0


def _main_metric(stage: Stage) -> str:
    """``: bbox/AP 12.34`` of a cell."""
    result = read_json(stage.folder / METRICS) if stage.is_cell else {}
    name = result.get("main_metric")
    return f": {name} {result['metrics'][name]:.2f}" if name else ""


def _spread(command: list[str], processes: int, gpus: int) -> list[str]:
    """Over as many GPUs as divide the images of a batch."""
    count = max(n for n in range(1, max(gpus, 1) + 1) if processes % n == 0)
    if count == 1:
        return command
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return ["sh", "-c", WITHOUT_USR2, command[0], *torchrun, *command[1:]]
