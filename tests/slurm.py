#!/usr/bin/env python
"""A Slurm of one node and one user, for tests: sbatch, srun, squeue, scontrol, scancel in a folder.

``install`` writes the commands; put their folder first on PATH. A job is the folder jobs/ID beside
them: its script, its state, the process ids of its tasks. That of an array's is jobs/ID_INDEX.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")


def install(folder: Path) -> Path:
    """Write the commands into ``folder``."""
    folder.mkdir(parents=True)
    code = Path(__file__).read_text().replace("/usr/bin/env python", sys.executable, 1)
    for name in COMMANDS:
        (folder / name).write_text(code)
        (folder / name).chmod(0o755)
    return folder


def jobs(folder: Path) -> Path:
    return folder / "jobs"


def put(path: Path, text: str) -> None:
    """Write all of it at once: others read the file at any moment."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text)
    os.replace(beside, path)


def tasks(job: Path) -> list[int]:
    """Process ids of the job's tasks in its present life."""
    path = job / "tasks"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def state(job: Path) -> str:
    return (job / "state").read_text()


def ended(job: Path) -> bool:
    return state(job) not in ("PENDING", "RUNNING")


def send(job: Path, number: int) -> None:
    """Signal the tasks, as Slurm does before a time limit and when it preempts."""
    for pid in tasks(job):
        os.kill(pid, number)


def preempt(job: Path) -> None:
    """SIGTERM, five seconds later SIGKILL; then it starts again, since it asked for --requeue."""
    assert "#SBATCH --requeue\n" in (job / "script").read_text()
    (job / "requeue").touch()
    send(job, signal.SIGTERM)
    time.sleep(5)
    send(job, signal.SIGKILL)


def options_of(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.M))


def sbatch(folder: Path, script: str) -> None:
    text = Path(script).read_text()
    known = {path.name.partition("_")[0] for path in jobs(folder).glob("*")}
    name = str(1 + len(known))
    array = re.match(r"0-(\d+)%", options_of(text).get("array", ""))
    names = [f"{name}_{index}" for index in range(int(array[1]) + 1)] if array else [name]
    for each in names:
        start(folder, jobs(folder) / each, text)
    print(f"Submitted batch job {name}")


def start(folder: Path, job: Path, script: str) -> None:
    job.mkdir(parents=True)
    (job / "script").write_text(script)
    put(job / "state", "PENDING")
    controller = subprocess.Popen(
        [sys.executable, folder / "sbatch", "--live", job],
        stdin=subprocess.DEVNULL,
        stdout=open(job / "output", "w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a process group of its own, which stop_all kills
    )
    put(job / "controller", str(controller.pid))


def meets_dependency(job: Path, options: dict[str, str]) -> bool:
    """Wait for the job that this one needs; False where that can never succeed."""
    needed = options.get("dependency", "").removeprefix("afterok:")
    while needed and not ended(job.with_name(needed)):
        time.sleep(0.05)
    return not needed or state(job.with_name(needed)) == "COMPLETED"


def live(job: Path) -> None:
    """Run the script, and again as long as the job is queued again."""
    options = options_of((job / "script").read_text())
    if not meets_dependency(job, options):
        assert options["kill-on-invalid-dep"] == "yes"
        put(job / "state", "CANCELLED")
        return
    nodes, per_node = int(options["nodes"]), int(options["ntasks-per-node"])
    environment = os.environ | {
        "SLURM_JOB_ID": job.name,
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
    }
    array, _, index = job.name.partition("_")
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index}
    while True:
        (job / "requeue").unlink(missing_ok=True)
        (job / "tasks").unlink(missing_ok=True)
        put(job / "state", "RUNNING")
        with open(job / "lives", "a") as file:
            file.write("x")
        code = subprocess.run(["bash", job / "script"], env=environment, check=False).returncode
        if not (job / "requeue").exists():
            break
    put(job / "state", "COMPLETED" if code == 0 else f"FAILED {code}")


def srun(folder: Path, *words: str) -> None:
    job = jobs(folder) / os.environ["SLURM_JOB_ID"]
    words, files = list(words), {}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            files[option] = words.pop(0).replace("%j", job.name).replace("%A_%a", job.name)
    running = []
    for n in range(int(os.environ["SLURM_NTASKS"])):
        environment = os.environ | {"SLURM_NODEID": "0"}
        environment |= {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}
        output, error = (open(files[o].replace("%t", str(n)), "a") for o in ("--output", "--error"))
        running.append(subprocess.Popen(words, env=environment, stdout=output, stderr=error))
    put(job / "tasks", " ".join(str(process.pid) for process in running))
    sys.exit(max(abs(process.wait()) for process in running))


def squeue(folder: Path, *words: str) -> None:
    assert "--me" in words
    for path in sorted(jobs(folder).glob("*")):
        if not ended(path):
            print(path.name)


def scontrol(folder: Path, action: str, job_id: str) -> None:
    assert action == "requeue"
    (jobs(folder) / job_id / "requeue").touch()


def scancel(folder: Path, job_id: str) -> None:
    send(jobs(folder) / job_id, signal.SIGTERM)


def stop_all(folder: Path) -> None:
    """Kill whatever is left of any job."""
    for path in jobs(folder).glob("*/controller"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def wait_until(condition, job: Path, seconds: float = 90) -> None:
    """Return once the condition holds; an error with what the job said when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = [path.read_text()[-2000:] for path in job.parents[2].glob("**/*.err")]
            raise AssertionError(f"{job}: {' '.join(said)}")
        time.sleep(0.05)


if __name__ == "__main__":
    here, name = Path(__file__).resolve().parent, Path(__file__).name
    if sys.argv[1:2] == ["--live"]:
        live(Path(sys.argv[2]))
    else:
        assert name in COMMANDS
        globals()[name](here, *sys.argv[1:])
