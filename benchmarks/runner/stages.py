"""The stages of a matrix: pretraining, conversion, fine-tuning; each a command and what it leaves.

A stage holds all that is needed to run it, so that it runs here or in a job on another machine. In
its folder lies its state file (``state.py``), so that old and new weights, settings or data never
mix: what was made from something else is moved aside, or written over where nobody can miss it.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner.matrix import (
    CONVERT,
    PRETRAIN,
    Cell,
    FineTuning,
    Init,
    Matrix,
    checkpoint_file,
    short,
    words_of,
)
from benchmarks.runner.state import (
    DONE,
    STATE,
    changes,
    move_aside,
    read_json,
    write_begun,
    write_ended,
)
from pretrain.runtime.files import list_checkpoints, sha256_of

PICTURES = 2  # of a cell, for the report

logger = logging.getLogger("benchmarks")


def backbone(output: Path, init: Init) -> Path:
    """Where the converted weights of ``init`` lie, shared by its cells."""
    return output / init.name / "backbone.pth"


def pretrain_command(init: Init, output: Path) -> list[str]:
    """The command that trains the checkpoint of ``init``, from the start or from where it was."""
    command = [sys.executable, "-m", "pretrain", "--config-file", init.pretrain.config, "--resume"]
    return [*command, "OUTPUT_DIR", str(init.source(output)), *words_of(init.pretrain.overrides)]


def convert_command(init: Init, output: Path) -> list[str]:
    """The command that turns a checkpoint into Detectron2's backbone."""
    command = [sys.executable, "-m", "transfer.convert", str(init.source(output))]
    return [*command, str(backbone(output, init)), "--method", init.method]


def fine_tune_command(cell: Cell, asked: FineTuning, output: Path) -> list[str]:
    """The command that fills one cell, from the start or from where it was interrupted."""
    own = cell.config_file is not None
    task = ["--config-file", str(cell.config_file)] if own else ["--task", cell.task]
    weights = str(backbone(output, cell.init)) if cell.init.stages else "random"
    command = [sys.executable, "-m", "transfer", *task, "--weights", weights]
    command += ["--output", str(cell.folder), "--seed", str(cell.seed), "--init", cell.init.name]
    if asked.overlay is not None:
        command += ["--overlay", asked.overlay]
    pictures = ["--visualize", str(PICTURES), str(cell.folder / "pictures")]
    return [*command, "--resume", *pictures, *asked.overrides]


@dataclass(frozen=True)
class Stage(ABC):
    """One command of the matrix."""

    name: str
    kind: str  # pretrain, convert or the task: what its resources go by
    init: Init
    output: Path  # of the whole matrix
    folder: Path  # where its state file is
    log: Path
    command: list[str]  # for one process
    processes: int  # at most; they divide this number
    needs: str | None  # the stage before
    datasets: Path | None

    @property
    def state(self) -> dict[str, Any]:
        """What its state file says; nothing where there is none."""
        return read_json(self.folder / STATE)

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether it has left what it should."""

    @abstractmethod
    def made_from(self) -> dict[str, Any]:
        """What it would be made from now, as far as that decides what it leaves."""

    @property
    def stale(self) -> str | None:
        """From what else it was made than it would be now; None where nothing differs."""
        return ", ".join(changes(self.made_from(), self.state.get("made_from", {}))) or None

    def begin(self) -> None:
        """To be called before the command. What another process made meanwhile may be stale."""
        if change := self.stale:
            logger.warning("%s: %s; moved to %s", self.name, change, move_aside(self.folder))
        write_begun(self.folder, self.made_from())

    def end(self, reason: str | None) -> None:
        """To be called after the command; ``reason``: why it failed, None where it did not."""
        write_ended(self.folder, reason, self.log)


class Pretrain(Stage):
    """``python -m pretrain``."""

    @property
    def done(self) -> bool:
        return self.state.get("outcome") == DONE and bool(list_checkpoints(self.folder))

    def made_from(self) -> dict[str, Any]:
        return {"settings": self.init.pretrain.settings}


class Convert(Stage):
    """``python -m transfer.convert``."""

    @property
    def done(self) -> bool:
        """Whether ``backbone.pth`` is there and was made from this very checkpoint."""
        if not (self.converted and backbone(self.output, self.init).is_file()):
            return False
        now = self.made_from()
        return all(self.converted[key] == now.get(key) for key in ("method", "checkpoint"))

    @property
    def stale(self) -> None:
        """``backbone.pth`` is written over, not moved aside: it can be made again."""

    @property
    def converted(self) -> dict[str, Any]:
        """What ``backbone.pth`` was made from, whatever lies in that place now; nothing while it is
        being made."""
        return self.state["made_from"] if self.state.get("outcome") == DONE else {}

    def made_from(self) -> dict[str, Any]:
        """Nothing where there is no checkpoint (yet).

        A file whose path, size and time are those of the last conversion is not hashed again.
        """
        checkpoint = checkpoint_file(self.init.source(self.output))
        if not checkpoint.is_file():
            return {}
        stat = checkpoint.stat()
        stamp = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        file = {"path": short(checkpoint), **stamp}
        last = self.state.get("made_from", {})
        sha256 = last["checkpoint"] if last.get("file") == file else sha256_of(checkpoint)
        return {"method": self.init.method, "checkpoint": sha256, "file": file}


@dataclass(frozen=True)
class FineTune(Stage):
    """``python -m transfer``."""

    cell: Cell
    asked: FineTuning
    convert: Convert | None  # None for random weights

    @property
    def done(self) -> bool:
        """``metrics.json`` is written last, so that its presence says it all."""
        return (self.folder / "metrics.json").is_file()

    def made_from(self) -> dict[str, Any]:
        """With the checkpoint that ``backbone.pth`` was made from."""
        return self._made_from({} if self.convert is None else self.convert.converted)

    def _made_from(self, source: Mapping[str, Any]) -> dict[str, Any]:
        made = {"method": self.init.method, "settings": self.asked.settings}
        if self.init.pretrain is not None:
            made["pretrain"] = self.init.pretrain.settings
        if self.convert is None:
            return made | {"checkpoint": None}
        return made | ({"checkpoint": source["checkpoint"]} if source else {})

    def changed(self, source: Mapping[str, Any], data: str | None) -> str | None:
        """As ``stale``, where the weights would be converted from ``source`` and the annotations
        have the sha256 ``data``, if that is known."""
        changed = changes(self._made_from(source), self.state.get("made_from", {}))
        if data is not None and self.data not in (None, data):
            changed.append("another data set")
        return ", ".join(changed) or None

    @property
    def data(self) -> str | None:
        """The sha256 of the annotations that the finished or begun cell was run on."""
        finished = read_json(self.folder / "metrics.json")
        begun = read_json(self.folder / "provenance.json").get("run") or {}
        return (finished or begun).get("data", {}).get("sha256")


def all_stages(matrix: Matrix, output: Path) -> list[Stage]:
    """All stages of a matrix, each after the one that it needs.

    Raises ConfigError for settings that a cell cannot be run with.
    """
    stages: list[Stage] = []
    convert: dict[str, Convert] = {}
    for init in matrix.inits:
        folder = output / init.name
        shared = {"init": init, "output": output, "datasets": matrix.datasets}
        if PRETRAIN in init.stages:
            stages.append(
                Pretrain(
                    name=f"{init.name}/{PRETRAIN}",
                    kind=PRETRAIN,
                    folder=init.source(output),
                    log=folder / "pretrain.log",
                    command=pretrain_command(init, output),
                    processes=init.pretrain.processes,
                    needs=None,
                    **shared,
                )
            )
        if CONVERT in init.stages:
            convert[init.name] = Convert(
                name=f"{init.name}/{CONVERT}",
                kind=CONVERT,
                folder=folder,
                log=folder / "convert.log",
                command=convert_command(init, output),
                processes=1,
                needs=f"{init.name}/{PRETRAIN}" if PRETRAIN in init.stages else None,
                **shared,
            )
            stages.append(convert[init.name])
    of_task = {
        (init.name, task): matrix.fine_tuning(init, task)
        for init in matrix.inits
        for task in matrix.tasks
    }
    for cell in matrix.cells(output):
        asked, before = of_task[cell.init.name, cell.task], convert.get(cell.init.name)
        stages.append(
            FineTune(
                name=cell.name,
                kind=cell.task,
                init=cell.init,
                output=output,
                folder=cell.folder,
                log=cell.folder / "stdout.log",
                command=fine_tune_command(cell, asked, output),
                processes=asked.processes,
                needs=None if before is None else before.name,
                datasets=matrix.datasets,
                cell=cell,
                asked=asked,
                convert=before,
            )
        )
    return stages


def stages_to_do(stages: Sequence[Stage], anew: Collection[str] = ()) -> list[Stage]:
    """The cells that are to run, and what of the stages before them they wait for.

    anew: the names of those that would be run again, though they have left what they should.
    """
    todo: dict[str, Stage] = {}
    for stage in stages:  # each after the one that it needs
        again = stage.kind == CONVERT and stage.needs in todo  # other weights
        if not stage.done or stage.name in anew or again:
            todo[stage.name] = stage
    wanted: set[str | None] = set()
    for stage in reversed(list(todo.values())):
        if isinstance(stage, FineTune) or stage.name in wanted:
            wanted.add(stage.needs)
        else:
            del todo[stage.name]
    return list(todo.values())
