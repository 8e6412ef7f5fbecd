"""The command of a stage at work, in a process that holds the stage's lock."""

import contextlib
import fcntl
import json
import shlex
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from benchmarks.runner.stages import Stage
from benchmarks.runner.state import read_json
from pretrain.runtime.config import REPOSITORY

DATA_ROOT = "DETECTRON2_DATASETS"
CANNOT = 2  # the exit code for input that cannot be used: trying again would not help
PATIENCE = 60  # seconds that a stage that is to end has to save itself
# Slurm sends SIGUSR2 to all processes of a job; torchrun would die of it before its own are saved
WITHOUT_USR2 = """trap '' USR2; exec "$0" "$@\""""


class Attempt:
    """Once the command of a stage, which prints to the stage's log."""

    def __init__(self, stage: Stage, gpus: int, environment: Mapping[str, str], lock: IO) -> None:
        """Raises OSError where it cannot be started; the lock is held until then."""
        self.stage, self.lock, self.started = stage, lock, time.monotonic()
        stage.begin()
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
        """How long it has taken."""
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"

    def kill(self) -> None:
        """Have it end, torchrun after its processes; saved, if that takes no longer than
        PATIENCE."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def lock_of(output: Path, name: str) -> Path:
    """The lock file of a stage, held while a process works on it, whoever started that; not in the
    stage's own folder, which may be moved aside."""
    return output / ".locks" / f"{name}.lock"


def take_lock(stage: Stage) -> IO | None:
    """The stage's lock file, locked; None while another process works on the stage."""
    path = lock_of(stage.output, stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    file.close()
    return None


def is_locked(output: Path, name: str) -> bool:
    """Whether a process works on the stage of that name."""
    try:
        with open(lock_of(output, name)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def gpus_held(stage: Stage) -> set[str]:
    """The GPUs of this machine that a process of an earlier run uses for the stage."""
    held = read_json(lock_of(stage.output, stage.name))
    here = held.get("host") == socket.gethostname() and is_locked(stage.output, stage.name)
    return set(held["gpus"]) if here else set()


def _spread(command: list[str], processes: int, gpus: int) -> list[str]:
    """Over as many GPUs as divide the images of a batch."""
    count = max(n for n in range(1, max(gpus, 1) + 1) if processes % n == 0)
    if count == 1:
        return command
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return ["sh", "-c", WITHOUT_USR2, command[0], *torchrun, *command[1:]]
