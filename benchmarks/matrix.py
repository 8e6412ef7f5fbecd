"""The matrix init x task x seed, as a benchmark's YAML describes it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checks import check_choice, check_epochs, check_keys
from benchmarks.published import METHODS, load_published
from pretrain.runtime.config import REPOSITORY, ConfigError, find_config, flatten, load_yaml
from pretrain.runtime.files import list_checkpoints

KEYS = ("datasets", "overlay", "inits", "tasks", "seeds", "overrides", "task_overrides")
INIT_KEYS = ("method", "checkpoint", "epochs", "overrides")


@dataclass(frozen=True)
class Init:
    """Weights that fine-tuning starts from."""

    name: str
    method: str
    checkpoint: Path | None  # a raw checkpoint file; None for random weights
    epochs: int | float | None
    overrides: dict[str, str]


@dataclass(frozen=True)
class Cell:
    """One fine-tuning. Its folder holds all that belongs to it; ``metrics.json`` means done."""

    init: Init
    task: str
    config_file: Path | None  # the task's YAML, where it is not one of TASKS
    seed: int
    folder: Path
    weights: str  # a converted file, or "random"
    overlay: Path | None
    overrides: dict[str, str]

    @property
    def name(self) -> str:
        """``clove/coco_fpn/seed0``, as the folder is called below the output."""
        return f"{self.init.name}/{self.task}/seed{self.seed}"

    @property
    def done(self) -> bool:
        """``metrics.json`` is written last, so that its presence says it all."""
        return (self.folder / "metrics.json").is_file()


@dataclass(frozen=True)
class Matrix:
    """A benchmark's YAML, checked."""

    config: str
    inits: tuple[Init, ...]
    tasks: dict[str, Path | None]  # name: YAML, where it is not one of TASKS
    seeds: tuple[int, ...]
    datasets: Path | None
    overlay: Path | None
    overrides: dict[str, str]
    task_overrides: dict[str, dict[str, str]]

    def cells(self, output: Path) -> list[Cell]:
        """All cells, a whole seed before the next, so that the first table comes early."""
        return [
            Cell(
                init=init,
                task=task,
                config_file=config_file,
                seed=seed,
                folder=output / init.name / task / f"seed{seed}",
                weights="random" if init.checkpoint is None else str(backbone(output, init)),
                overlay=self.overlay,
                # The more special wins: what an init needs (say, BGR) holds in every task.
                overrides=self.overrides | self.task_overrides.get(task, {}) | init.overrides,
            )
            for seed in self.seeds
            for task, config_file in self.tasks.items()
            for init in self.inits
        ]

    def summary(self) -> dict[str, Any]:
        """What ``collect`` must know to show a cell that is missing, ready for JSON."""
        return {
            "format": 1,
            "config": self.config,
            "inits": {
                init.name: {"method": init.method, "epochs": init.epochs} for init in self.inits
            },
            "tasks": list(self.tasks),
            "seeds": list(self.seeds),
        }


def backbone(output: Path, init: Init) -> Path:
    """Where the converted weights of ``init`` lie, shared by its cells."""
    return output / init.name / "backbone.pth"


def load_matrix(path: str | Path) -> Matrix:
    """Read and check a benchmark's YAML. Raises ConfigError before anything has run."""
    where = str(path)
    tree = check_keys(load_yaml(path), where, KEYS, required=("inits", "tasks"))
    tasks = _tasks(tree["tasks"], f"{where}: tasks")
    seeds = _unique_list(tree.get("seeds", [0]), f"{where}: seeds")
    for seed in seeds:
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"{where}: seeds: {seed!r} is not a whole number from 0 on")
    task_overrides = check_keys(tree.get("task_overrides") or {}, f"{where}: task_overrides", tasks)
    inits = tree["inits"]
    if not isinstance(inits, dict) or not inits:
        raise ConfigError(f"{where}: inits: expected a mapping name: settings, found {inits!r}")
    return Matrix(
        config=where,
        inits=tuple(_init(name, entry, f"{where}: inits") for name, entry in inits.items()),
        tasks=tasks,
        seeds=tuple(seeds),
        datasets=_data_root(tree.get("datasets"), where),
        overlay=find_config(str(tree["overlay"])) if tree.get("overlay") else None,
        overrides=_overrides(tree.get("overrides"), f"{where}: overrides"),
        task_overrides={
            task: _overrides(entry, f"{where}: task_overrides: {task}")
            for task, entry in task_overrides.items()
        },
    )


def find_checkpoint(path: str | Path, where: str) -> Path:
    """The checkpoint file at ``path``; of a pretraining run folder, its newest one.

    Relative paths start at the repository.
    """
    given = REPOSITORY / path
    if given.is_file():
        return given
    if not given.exists():
        raise ConfigError(
            f"{where}: checkpoint {path} does not exist below {REPOSITORY}; "
            "pretrain first (python -m pretrain), or name another file or run folder"
        )
    found = list_checkpoints(given)
    if not found:
        raise ConfigError(
            f"{where}: checkpoint {path} is a folder without checkpoints/step_*.pth; "
            "pretrain first (python -m pretrain), or name another file or run folder"
        )
    return found[-1]


def _tasks(values: Any, where: str) -> dict[str, Path | None]:
    """Names of ours, and YAML files of a user's own, which are called as the file is."""
    known, tasks = load_published(), {}
    for value in _unique_list(values, where):
        own = str(value).endswith((".yaml", ".yml"))
        name = Path(value).stem if own else value
        if own and (name in known or name in tasks):
            raise ConfigError(f"{where}: {value}: another task is called {name}; rename the file")
        file = find_config(value) if own else None
        if not own:
            check_choice(value, where, "task", known)
        elif file.is_relative_to(REPOSITORY / "configs" / "transfer"):
            raise ConfigError(f"{where}: {value} is one of ours; give the task's name")
        tasks[name] = file
    return tasks


def _init(name: Any, entry: Any, where: str) -> Init:
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+", name)):
        raise ConfigError(f"{where}: {name!r} is not a name of lower-case letters, digits and _")
    where = f"{where}: {name}"
    check_keys(entry, where, INIT_KEYS, required=("method",))
    method = check_choice(entry["method"], where, "method", METHODS)
    checkpoint = entry.get("checkpoint")
    if method == "random" and checkpoint is not None:
        raise ConfigError(f"{where}: random weights have no checkpoint; remove {checkpoint}")
    if method != "random" and not isinstance(checkpoint, str):
        raise ConfigError(f"{where}: checkpoint is missing: a file, or a pretraining run's folder")
    return Init(
        name=name,
        method=method,
        checkpoint=None if checkpoint is None else find_checkpoint(checkpoint, where),
        epochs=check_epochs(entry.get("epochs"), where),
        overrides=_overrides(entry.get("overrides"), f"{where}: overrides"),
    )


def _overrides(tree: Any, where: str) -> dict[str, str]:
    """``KEY: VALUE``, dotted or nested, as the words of a command line."""
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: expected a mapping KEY: VALUE, found {tree!r}")
    return {key: str(value) for key, value in flatten(tree).items()}


def _data_root(path: Any, where: str) -> Path | None:
    if path is None:
        return None
    root = REPOSITORY / str(path)
    if not root.is_dir():
        raise ConfigError(
            f"{where}: datasets: {path} is no folder below {REPOSITORY}; "
            "python -m benchmarks.scenes writes the embedded data set"
        )
    return root


def _unique_list(values: Any, where: str) -> list:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: expected a list of at least one, found {values!r}")
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} is listed twice")
    return values
