"""The matrix init x task x seed, as a benchmark's YAML describes it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checks import check_choice, check_epochs, check_keys
from benchmarks.tables.published import METHODS, load_published
from benchmarks.tables.results import CellName
from pretrain.runtime import slurm
from pretrain.runtime.config import (
    REPOSITORY,
    ConfigError,
    find_config,
    flatten,
    is_within,
    load_yaml,
    merge,
    plain,
)
from pretrain.runtime.files import list_checkpoints

KEYS = (
    *("datasets", "overlay", "inits", "tasks", "seeds", "task_seeds"),
    *("overrides", "task_overrides", "retries", "slurm"),
)
INIT_KEYS = ("method", "checkpoint", "pretrain", "epochs", "overrides")
SLURM_KEYS = ("partition", "hours", "gpus", "cpus", "options")
PRETRAIN, CONVERT = "pretrain", "convert"  # stages, and their names in `slurm`
EVERYTHING = "all"  # in `slurm`: what the others differ from


@dataclass(frozen=True)
class Pretraining:
    """A run of ``python -m pretrain`` that gives an init its checkpoint."""

    config: str
    overrides: tuple[str, ...]  # KEY, VALUE, ...
    settings: dict[str, str]  # the resolved config, less what does not change its result
    processes: int  # the most that it can be spread over


@dataclass(frozen=True)
class FineTuning:
    """What a run of ``python -m transfer`` is asked for, whatever its weights and seed."""

    config: str
    overlay: str | None
    overrides: tuple[str, ...]  # KEY, VALUE, ...
    settings: dict[str, str]  # all that decides its result and is not Detectron2's default
    iterations: int
    images_per_batch: int  # over all processes
    processes: int  # the most that it can be spread over


@dataclass(frozen=True)
class Init:
    """Weights that fine-tuning starts from."""

    name: str
    method: str
    checkpoint: Path | None  # a raw checkpoint file; None for random weights and `pretrain`
    pretrain: Pretraining | None
    epochs: int | float | None
    overrides: dict[str, str]

    def source(self, output: Path) -> Path | None:
        """Where the checkpoint is, or will be once it is trained; None for random weights."""
        return self.checkpoint if self.pretrain is None else output / self.name / PRETRAIN

    @property
    def stages(self) -> list[str]:
        """What comes before the cells."""
        if self.method == "random":
            return []
        return [CONVERT] if self.pretrain is None else [PRETRAIN, CONVERT]


@dataclass(frozen=True)
class Cell:
    """One fine-tuning."""

    init: Init
    task: str
    config_file: Path | None  # the task's YAML, where it is not one of transfer's TASKS
    seed: int
    output: Path  # of the whole matrix

    @property
    def name(self) -> str:
        """``clove/coco_fpn/seed0``, as the folder is called below the output."""
        return str(CellName(self.init.name, self.task, self.seed))

    @property
    def folder(self) -> Path:
        """All that belongs to it lies there."""
        return self.output / self.name


@dataclass(frozen=True)
class Matrix:
    """A benchmark's YAML, checked, but for the files that it names (``missing``)."""

    config: str
    inits: tuple[Init, ...]
    tasks: dict[str, Path | None]  # name: YAML, where it is not one of TASKS
    seeds: dict[str, tuple[int, ...]]  # by task
    datasets: Path | None
    overlay: Path | None
    overrides: dict[str, str]
    task_overrides: dict[str, dict[str, str]]
    retries: int  # how often a stage that fails is tried again in one run
    slurm: dict[str, dict[str, Any]]

    def cells(self, output: Path) -> list[Cell]:
        """All cells, a whole seed before the next, so that the first table comes early."""
        seeds = dict.fromkeys(seed for task in self.tasks for seed in self.seeds[task])
        return [
            Cell(init, task, self.tasks[task], seed, output)
            for seed in seeds
            for task in self.tasks
            if seed in self.seeds[task]
            for init in self.inits
        ]

    def fine_tuning(self, init: Init, task: str) -> FineTuning:
        """What the cells of ``init`` and ``task`` are asked for.

        Raises ConfigError for settings that every one of them would end at.
        """
        # The more special wins: what an init needs (say, BGR) holds in every task.
        overrides = self.overrides | self.task_overrides.get(task, {}) | init.overrides
        config, overlay = (None if f is None else str(f) for f in (self.tasks[task], self.overlay))
        try:
            return resolve(task, config, overlay, _words(overrides))
        except ConfigError as error:
            reason = " ".join(str(error).removeprefix("command line: ").split())
            raise ConfigError(f"{self.config}: {init.name}/{task}: {reason}") from error

    def missing(self) -> list[str]:
        """The files that are named and not there."""
        missing = []
        if self.datasets is not None and not self.datasets.is_dir():
            way_out = "python -m benchmarks.scenes writes the embedded data set"
            missing.append(f"datasets: {short(self.datasets)} is no folder; {way_out}")
        for init in self.inits:
            file = init.checkpoint
            if file is not None and not file.is_file():
                missing.append(
                    f"inits: {init.name}: checkpoint {short(file)} is no file, and no folder with "
                    "checkpoints/step_*.pth"
                )
        return missing

    def resources(self, kind: str) -> slurm.Resources:
        """What a Slurm job of that stage or task asks for. Raises ConfigError for bad values."""
        where = f"{self.config}: slurm: {kind}"
        asked = self.slurm.get(EVERYTHING, {}) | self.slurm.get(kind, {})
        options = slurm.parse_options(str(asked.pop("options", None) or ""), where)
        for key in ("gpus", "cpus"):
            _check_whole(asked.get(key, 1), f"{where}: {key}")
        hours = asked.get("hours", slurm.Resources.hours)
        if type(hours) not in (int, float) or 3600 * hours < 2 * slurm.SIGNAL_DELAY:
            raise ConfigError(f"{where}: hours {hours!r} is no time to work in")
        return slurm.Resources(**asked, options=options)

    def summary(self) -> dict[str, Any]:
        """What others must know to show a cell that is missing, ready for JSON."""
        return {
            "format": 1,
            "config": self.config,
            "inits": {
                init.name: {"method": init.method, "epochs": init.epochs, "stages": init.stages}
                for init in self.inits
            },
            "tasks": list(self.tasks),
            "seeds": {task: list(seeds) for task, seeds in self.seeds.items()},
        }


def resolve(
    task: str, config: str | None, overlay: str | None, overrides: tuple[str, ...]
) -> FineTuning:
    """The config of a fine-tuning, as ``python -m transfer`` will resolve it.

    config: the task's YAML, where it is not one of TASKS. Raises ConfigError as ``transfer`` does.
    """
    from transfer.config import NOT_HASHED, default_config
    from transfer.config import resolve as resolve_fully
    from transfer.tasks import TASKS

    config = TASKS[task].config if config is None else config
    cfg = resolve_fully(config, overlay, overrides)
    defaults = plain(flatten(default_config()))
    settings = {
        key: str(value)
        for key, value in plain(flatten(cfg)).items()
        if not is_within(key, NOT_HASHED) and (key not in defaults or value != defaults[key])
    }
    images = cfg.SOLVER.IMS_PER_BATCH
    processes = 1 if cfg.MODEL.DEVICE == "cpu" else images
    return FineTuning(config, overlay, overrides, settings, cfg.SOLVER.MAX_ITER, images, processes)


def load_matrix(path: str | Path) -> Matrix:
    """Read and check a benchmark's YAML; whether its files are there, ``missing`` says."""
    where = str(path)
    tree = check_keys(load_yaml(path), where, KEYS, required=("inits", "tasks"))
    tasks = _tasks(tree["tasks"], f"{where}: tasks")
    seeds = tree.get("seeds", [0])
    task_seeds = check_keys(tree.get("task_seeds") or {}, f"{where}: task_seeds", tasks)
    known = {**load_published(), **tasks}  # a base may override tasks that are not asked for
    task_overrides = check_keys(tree.get("task_overrides") or {}, f"{where}: task_overrides", known)
    asked = check_keys(
        tree.get("slurm") or {}, f"{where}: slurm", (EVERYTHING, PRETRAIN, CONVERT, *tasks)
    )
    inits = tree["inits"]
    if not isinstance(inits, dict) or not inits:
        raise ConfigError(f"{where}: inits: expected a mapping name: settings, found {inits!r}")
    for kind, entry in asked.items():
        check_keys(entry, f"{where}: slurm: {kind}", SLURM_KEYS)
    retries = tree.get("retries", 1)
    _check_whole(retries, f"{where}: retries")
    datasets, overlay = tree.get("datasets"), tree.get("overlay")
    return Matrix(
        config=where,
        inits=tuple(_init(name, entry, f"{where}: inits") for name, entry in inits.items()),
        tasks=tasks,
        seeds={
            task: _seeds(task_seeds.get(task, seeds), f"{where}: seeds of {task}") for task in tasks
        },
        datasets=None if datasets is None else REPOSITORY / str(datasets),
        overlay=find_config(str(overlay)) if overlay else None,
        overrides=_overrides(tree.get("overrides"), f"{where}: overrides"),
        task_overrides={
            task: _overrides(entry, f"{where}: task_overrides: {task}")
            for task, entry in task_overrides.items()
        },
        retries=retries,
        slurm=asked,
    )


def newest(checkpoint: Path) -> Path:
    """The file itself; of a pretraining run's folder, its newest checkpoint, if any."""
    return (list_checkpoints(checkpoint) or [checkpoint])[-1]


def short(path: Path) -> str:
    """``path`` from the repository on, where it lies below it."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def _tasks(values: Any, where: str) -> dict[str, Path | None]:
    """Names of ours, and YAML files of a user's own, which are called as the file is."""
    known, tasks = load_published(), {}
    for value in _unique_list(values, where):
        if not str(value).endswith((".yaml", ".yml")):
            tasks[check_choice(value, where, "task", known)] = None
            continue
        name = Path(value).stem
        if name in (*known, *tasks, PRETRAIN, CONVERT, EVERYTHING):
            raise ConfigError(f"{where}: {value}: the name {name} is taken; rename the file")
        tasks[name] = find_config(value)
    return tasks


def _init(name: Any, entry: Any, where: str) -> Init:
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+", name)):
        raise ConfigError(f"{where}: {name!r} is not a name of lower-case letters, digits and _")
    where = f"{where}: {name}"
    check_keys(entry, where, INIT_KEYS, required=("method",))
    method = check_choice(entry["method"], where, "method", METHODS)
    checkpoint, asked = entry.get("checkpoint"), entry.get("pretrain")
    if (checkpoint is not None) + (asked is not None) != (method != "random"):
        raise ConfigError(
            f"{where}: checkpoint, a file or a pretraining run's folder, or pretrain: "
            "{config: ...}: random has neither, every other method one of the two"
        )
    pretrain, epochs = (None, None) if asked is None else _pretrain(asked, f"{where}: pretrain")
    if pretrain is not None and (trained := pretrain.settings["METHOD.NAME"]) != method:
        raise ConfigError(f"{where}: method {method}, but {asked['config']} trains {trained}")
    return Init(
        name=name,
        method=method,
        checkpoint=None if checkpoint is None else newest(REPOSITORY / str(checkpoint)),
        pretrain=pretrain,
        epochs=check_epochs(entry.get("epochs", epochs), where),
        overrides=_overrides(entry.get("overrides"), f"{where}: overrides"),
    )


def _pretrain(entry: Any, where: str) -> tuple[Pretraining, int]:
    """The run, and its epochs."""
    from pretrain.config import NOT_HASHED, get_cfg
    from pretrain.methods import complete

    check_keys(entry, where, ("config", "overrides"), required=("config",))
    overrides = _overrides(entry.get("overrides"), f"{where}: overrides")
    if "OUTPUT_DIR" in overrides:
        raise ConfigError(f"{where}: overrides: OUTPUT_DIR is in the folder of the results")
    cfg = get_cfg()
    merge(cfg, entry["config"], _words(overrides))
    cfg = complete(cfg)
    kept = {k: str(value) for k, value in flatten(cfg).items() if not is_within(k, NOT_HASHED)}
    processes = cfg.SOLVER.TOTAL_BATCH_SIZE // cfg.SOLVER.BATCH_SIZE_PER_GPU
    processes = 1 if cfg.DEVICE == "cpu" else max(processes, 1)
    return Pretraining(entry["config"], _words(overrides), kept, processes), cfg.SOLVER.EPOCHS


def _overrides(tree: Any, where: str) -> dict[str, str]:
    """``KEY: VALUE``, dotted or nested, as the words of a command line."""
    if not isinstance(tree or {}, dict):
        raise ConfigError(f"{where}: expected a mapping KEY: VALUE, found {tree!r}")
    return {key: str(value) for key, value in flatten(tree or {}).items()}


def _words(overrides: dict[str, str]) -> tuple[str, ...]:
    """``KEY VALUE ...`` for a command line."""
    return tuple(word for pair in overrides.items() for word in pair)


def _seeds(values: Any, where: str) -> tuple[int, ...]:
    for seed in _unique_list(values, where):
        _check_whole(seed, where)
    return tuple(values)


def _check_whole(value: Any, where: str) -> None:
    if type(value) is not int or value < 0:
        raise ConfigError(f"{where}: {value!r} is not a whole number from 0 on")


def _unique_list(values: Any, where: str) -> list:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: expected a list of at least one, found {values!r}")
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} is listed twice")
    return values
