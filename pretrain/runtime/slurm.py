"""Slurm through submitit: jobs that save themselves before a time limit, and go on in a new one."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_text
from pretrain.runtime.interrupt import Interrupted

SIGNAL_DELAY = 180  # seconds between the signal and the time limit: for a step and a checkpoint
LONGEST_GRACE = 300  # seconds that a preempted job is left, on most clusters
NO_LIMIT = 10**6  # how often a job may go on after its time limit
# From Slurm 22.05 to 23.02 srun takes one CPU per process, whatever sbatch was told
CPUS_FOR_SRUN = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"


@dataclass(frozen=True)
class Resources:
    """What a job asks for."""

    nodes: int = 1
    processes: int = 1  # per node
    gpus: int = 0  # per node
    cpus: int = 1  # per process
    hours: float = 24.0  # then it is queued again
    partition: str = ""
    options: dict[str, str] = field(default_factory=dict)  # others of sbatch


class Job(Checkpointable):
    """A function as every process of a job runs it; submitit queues the same one again.

    distributed: with torchrun's variables set, by which the processes of a job meet.

    Where it raises Interrupted after SIGUSR2, which Slurm sends before a time limit, the job is
    queued again. After SIGTERM alone it waits to be killed: it was cancelled, or it is preempted,
    and then Slurm itself queues it again, unless it has ended before. Where it is not queued again
    it raises Interrupted itself, so that the job counts as failed and no other one starts on it.
    """

    def __init__(self, function: Callable[[], Any], distributed: bool) -> None:
        self.function, self.distributed = function, distributed

    def __call__(self) -> None:
        if self.distributed:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            if submitit.JobEnvironment().num_nodes == 1:
                os.environ["MASTER_ADDR"] = "127.0.0.1"  # a host's name need not resolve
        try:
            self.function()
        except Interrupted as interrupted:
            # InterruptFlag has put submitit's handlers back. That of SIGUSR2 queues the job again
            # and ends rank 0; before and after the loop it does so at once, and nothing is lost
            if signal.SIGUSR2.name in interrupted.signals:
                signal.raise_signal(signal.SIGUSR2)
                return  # as another rank, whose failure might end rank 0 too early
            # Without a signal another rank has one, and ours may be on its way
            if signal.SIGTERM.name in interrupted.signals or not interrupted.signals:
                time.sleep(LONGEST_GRACE)
            raise


def require_commands(flag: str = "--slurm") -> None:
    """Raise ConfigError, naming what asked for Slurm, where there is none."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            f"{flag}: there is no sbatch here; submit from a login node of a cluster with Slurm, "
            f"or leave {flag} out"
        )


def submit(function: Callable[[], Any], folder: str | Path, name: str, resources: Resources) -> str:
    """Queue ``function``, which pickles, for processes that meet each other; the job's id.

    The job's files and what it prints go below ``folder``. Raises ConfigError where there is no
    Slurm, or where it refuses the job.
    """
    require_commands()
    job_id = submit_array([function], folder, name, resources, distributed=True)[0]
    write_text(Path(folder, "job_id"), f"{job_id}\n")
    return job_id


def submit_array(
    functions: Sequence[Callable[[], Any]],
    folder: str | Path,
    name: str,
    resources: Resources,
    after: str | None = None,
    flag: str = "--slurm",
    distributed: bool = False,
) -> list[str]:
    """Queue ``functions`` as one array; its jobs' ids.

    after: the id of a job that must succeed before; when it fails, they leave the queue.
    flag: what to call the cause of a ConfigError. distributed: of ``Job``.
    """
    more = {"dependency": f"afterok:{after}", "kill_on_invalid_dep": "yes"} if after else {}
    executor = submitit.SlurmExecutor(folder, max_num_timeout=NO_LIMIT)
    executor.update_parameters(
        job_name=name,
        nodes=resources.nodes,
        ntasks_per_node=resources.processes,
        gpus_per_node=resources.gpus or None,
        cpus_per_task=resources.cpus,
        time=round(60 * resources.hours),
        partition=resources.partition or None,
        signal_delay_s=SIGNAL_DELAY,
        setup=[CPUS_FOR_SRUN],
        additional_parameters={**resources.options, **more, "requeue": True},
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises, too
            jobs = executor.submit_array([Job(each, distributed) for each in functions])
    except RuntimeError as error:  # of submitit, whatever is wrong
        reason = " ".join(str(error).split())
        raise ConfigError(f"{flag}: sbatch refuses the job: {reason}") from error
    return [job.job_id for job in jobs]


def queued(folder: str | Path) -> str | None:
    """The id of the job last submitted with ``folder`` while it waits or runs.

    Raises ConfigError as ``queued_ids``.
    """
    path = Path(folder, "job_id")
    job_id = path.read_text().strip() if path.exists() else None
    return job_id if job_id and job_id in queued_ids() else None


def queued_ids(flag: str = "--slurm") -> set[str]:
    """The ids of all jobs of this user that wait or run, an array's one by one.

    Raises ConfigError, naming ``flag``, where squeue does not say so: that is not an empty queue.
    """
    command = ["squeue", "--noheader", "--array", "--me", "--format", "%i"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise ConfigError(
            f"{flag}: squeue does not say what is queued: {reason}; try again once it does"
        ) from error
    return set(said.stdout.split())


def parse_options(words: str, source: str) -> dict[str, str]:
    """``account=x qos=y`` as a dict. Raises ConfigError for other forms."""
    options = {}
    for word in words.split():
        key, equals, value = word.removeprefix("--").partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{source}: {word!r} is not of the form key=value, as in account=x")
        # submitit's spelling: with another one, its own value would come later and win
        options[key.replace("-", "_")] = value
    return options
