"""Runs stages on this machine, as many at once as it has slots."""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.sources import read_json
from benchmarks.stages import (
    CANNOT,
    Attempt,
    FineTune,
    Stage,
    gpus_held,
    is_locked,
    last_lines,
    logger,
    take_lock,
)
from pretrain.runtime.config import ConfigError
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted, InterruptFlag
from pretrain.runtime.logging import progress_bar

LAST_LINES = 5  # of a failed stage's log, shown at the end
PERIOD = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Slot:
    """Where one stage at a time runs."""

    environment: Mapping[str, str]
    gpus: int


def make_slots(count: int, environment: Mapping[str, str] = os.environ) -> list[Slot]:
    """``count`` equal parts of this machine's GPUs, or of its cores where it has none."""
    if count < 1:
        raise ConfigError(f"--slots {count} is under 1")
    gpus = _gpus(environment)
    if not gpus:
        own = {} if count == 1 else {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1))}
        return [Slot({**own, **environment}, 0) for _ in range(count)]
    each = len(gpus) // count
    if each == 0:
        raise ConfigError(
            f"--slots {count}: there are {len(gpus)} GPUs here, and a slot has whole ones"
        )
    parts = [gpus[n * each : (n + 1) * each] for n in range(count)]
    return [Slot({**environment, "CUDA_VISIBLE_DEVICES": ",".join(p)}, each) for p in parts]


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES says, or the numbers of all GPUs."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    said = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
    )
    lines = [line for line in said.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))] if said.returncode == 0 else []


@dataclass(frozen=True)
class Failure:
    """A stage that ended badly: the rest of the matrix goes on without it."""

    name: str
    reason: str
    log: Path


class Local:
    """Stages on this machine, until all are done, have failed or are interrupted."""

    def __init__(
        self,
        stages: Sequence[Stage],
        slots: Sequence[Slot],
        retries: int,
        interrupted: InterruptFlag,
    ) -> None:
        self.slots, self.retries, self.interrupted = slots, retries, interrupted
        self.done = {stage.name for stage in stages if stage.done}
        self.waiting = [stage for stage in stages if stage.name not in self.done]
        self.running: dict[int, Attempt] = {}  # by slot
        self.attempts: Counter[str] = Counter()  # that have failed
        self.failures: list[Failure] = []
        self.gone: set[str] = set()  # failed, or left out
        self.cells = [stage.name for stage in stages if isinstance(stage, FineTune)]
        self.position = sum(name in self.done for name in self.cells)  # of the cell begun last
        self.told: set[str] = set()  # stages that another process works on
        self.orphans = [stage for stage in self.waiting if is_locked(stage.lock)]

    def run(self) -> None:
        """Run what is not done. Raises Interrupted after a signal, once everything is saved."""
        logger.info("%d of %d cells are done", self.position, len(self.cells))
        with progress_bar(len(self.cells), self.position, unit="cell") as bar:
            try:
                while self.waiting or self.running:
                    if self.interrupted:
                        raise self.save()
                    for number, slot in enumerate(self.slots):
                        if number not in self.running:
                            self.start_next(number, slot)
                    time.sleep(PERIOD)
                    for number, attempt in list(self.running.items()):
                        if (code := attempt.poll()) is not None:
                            del self.running[number]
                            bar.update(self.end(attempt, code) and attempt.stage.name in self.cells)
                    if not bar.disable:
                        logs = [attempt.stage.log for attempt in self.running.values()]
                        lines = [line for log in logs for line in last_lines(log, 1)]
                        bar.set_postfix_str(" | ".join(lines))
            finally:
                for attempt in self.running.values():
                    attempt.kill()

    def start_next(self, number: int, slot: Slot) -> None:
        """Start the first stage that can run in that slot, once nothing else uses its GPUs."""
        own = set(slot.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")) if slot.gpus else ()
        if any(not gpus_held(stage).isdisjoint(own) for stage in self.orphans):
            return
        for stage in list(self.waiting):
            if stage.needs in self.gone:
                logger.info("%s: left out, %s is missing", stage.name, stage.needs)
                self.waiting.remove(stage)
                self.gone.add(stage.name)
            elif stage.needs is None or stage.needs in self.done:
                if (lock := take_lock(stage)) is not None:
                    self.waiting.remove(stage)
                    self.start(number, slot, stage, lock)
                    return
                if stage.name not in self.told:
                    logger.info("%s: another process works on it; waiting for that", stage.name)
                    self.told.add(stage.name)

    def start(self, number: int, slot: Slot, stage: Stage, lock: IO) -> None:
        """Start it, unless another process has done it meanwhile."""
        if stage.done and stage.stale is None:
            lock.close()
            self.done.add(stage.name)
            return
        again = f", attempt {self.attempts[stage.name] + 1}" if self.attempts[stage.name] else ""
        if stage.name in self.cells and not again:
            self.position += 1
            position = f"cell {self.position} of {len(self.cells)}: "
        else:
            position = ""
        logger.info("%s%s runs%s, log in %s", position, stage.name, again, stage.log)
        try:
            self.running[number] = Attempt(stage, slot.gpus, slot.environment, lock)
        except OSError as error:  # a full disk, no memory for a process
            lock.close()
            self.note_failure(stage, f"could not be started: {error}")

    def end(self, attempt: Attempt, code: int) -> bool:
        """Whether the stage is done; else it is tried again after the others, or has failed.

        Raises Interrupted where it saved itself, after a signal that we need not have received.
        """
        stage = attempt.stage
        if code == EXIT_CODE or (code and self.interrupted):
            attempt.lock.close()
            raise self.save()
        try:
            reason = attempt.end(code)
        except OSError as error:
            reason = f"could not be concluded: {error}"
        if reason is None:
            self.done.add(stage.name)
            logger.info("%s took %s%s", stage.name, attempt.duration, _main_metric(stage))
            return True
        self.note_failure(stage, reason, again=code != CANNOT)
        return False

    def note_failure(self, stage: Stage, reason: str, again: bool = True) -> None:
        """Have it tried again after the others, or nevermore."""
        self.attempts[stage.name] += 1
        if again and self.attempts[stage.name] <= self.retries:
            logger.warning("%s: %s; it is tried again", stage.name, reason)
            self.waiting.append(stage)
        else:
            logger.error("%s FAILED: %s, log in %s", stage.name, reason, stage.log)
            self.failures.append(Failure(stage.name, reason, stage.log))
            self.gone.add(stage.name)

    def save(self) -> Interrupted:
        """Wait until all that runs is saved; what there is to raise then."""
        signals = ", ".join(self.interrupted.received) or "interrupted"
        for attempt in self.running.values():
            # Ctrl-C reached it already; a signal to us alone did not.
            logger.info("%s: waiting until %s is saved", signals, attempt.stage.name)
            attempt.process.terminate()
        for number, attempt in list(self.running.items()):
            code = attempt.process.wait()
            del self.running[number]
            with attempt.lock:
                if code == 0:  # it came to its end
                    attempt.stage.conclude()
        return Interrupted("interrupted", self.interrupted.received)

    def report(self) -> int:
        """List what failed; the exit code of the whole run."""
        for failure in self.failures:
            last = "".join(f"\n    {line}" for line in last_lines(failure.log, LAST_LINES))
            logger.error("failed: %s: %s\n  %s%s", failure.name, failure.reason, failure.log, last)
        if self.failures:
            logger.error("The same command tries what failed again and keeps what is done.")
        return 1 if self.failures else 0


def _main_metric(stage: Stage) -> str:
    """``: bbox/AP 12.34`` of a cell. What is wrong with a file, ``collect`` says."""
    if not isinstance(stage, FineTune):
        return ""
    result = read_json(stage.cell.folder / "metrics.json")
    try:
        return f": {result['main_metric']} {result['metrics'][result['main_metric']]:.2f}"
    except (ValueError, KeyError, TypeError):
        return ": metrics.json is not readable"
