"""The stages of a matrix: pretraining, conversion, fine-tuning; each a command and what it leaves.

A stage holds all that is needed to run it, so that it runs here or in a job on another machine. Its
state file (``state.py``) says what it was made from: weights, settings and data never mix.
"""

import functools
import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner import state
from benchmarks.runner.matrix import CONVERT, PRETRAIN, Cell, FineTuning, Init, Matrix, newest
from pretrain.runtime.files import sha256_of, write_json

PICTURES = 2  # of a cell, for the report

logger = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Stage:
    """One command of the matrix."""

    name: str  # clove/pretrain, clove/convert, clove/coco_fpn/seed0
    kind: str  # pretrain, convert or the task: what its resources go by
    init: Init
    output: Path  # of the whole matrix
    folder: Path  # where its state file is
    log: Path
    product: str  # what it leaves last, a pattern below its folder
    request: dict[str, Any]  # all that decides what it leaves, less the checkpoint
    command: list[str]  # for one process
    processes: int  # at most; they divide this number
    before: "Stage | None"
    datasets: Path | None
    fine_tuning: FineTuning | None = None  # of a cell

    @property
    def state(self) -> dict[str, Any]:
        """What its state file says; nothing where there is none."""
        return state.read_json(self.folder / state.STATE)

    @property
    def is_cell(self) -> bool:
        """Whether it is a fine-tuning."""
        return self.fine_tuning is not None

    @property
    def needs(self) -> str | None:
        """The name of the stage before."""
        return None if self.before is None else self.before.name

    @property
    def done(self) -> bool:
        """Whether it has left what it should.

        ``metrics.json`` of a cell is written last: its presence says it all. A checkpoint or a
        backbone may be one of an interrupted stage, or made from something else.
        """
        ended = self.is_cell or (self.state.get("outcome") == state.DONE and not self.stale)
        return ended and any(self.folder.glob(self.product))

    def made_from(self, ahead: bool = False) -> dict[str, Any]:
        """What decides what it would leave now; without the checkpoint where there is none yet.

        A cell's is the one that ``backbone.pth`` was made from. ahead: the one that lies there now,
        which may not be converted yet.
        """
        if self.kind == CONVERT:
            return self.request | _checkpoint(self.init.source(self.output))
        if not self.is_cell:
            return self.request
        if self.before is None:
            return self.request | {"checkpoint": None}
        source = self.before.made_from() if ahead else {}
        if self.before.state.get("outcome") == state.DONE:
            source = self.before.state["made_from"] | source
        return self.request | {key: source[key] for key in source if key == "checkpoint"}

    @property
    def stale(self) -> str:
        """From what else it was made than it would be now; empty where nothing differs."""
        return state.changes(self.made_from(), self.state.get("made_from", {}))

    def begin(self) -> None:
        """To be called before the command. What another process made meanwhile may be stale."""
        if self.kind != CONVERT and (change := self.stale):  # a backbone is written over
            aside = state.move_aside(self.folder)
            logger.warning("%s: %s; moved to %s", self.name, change, aside)
        begun = {"outcome": state.BEGUN, "made_from": self.made_from(), "begun": state.now()}
        begun |= {"ended": None, "reason": None, "last_lines": []}
        write_json(self.folder / state.STATE, begun)

    def end(self, reason: str | None) -> None:
        """To be called after the command; ``reason``: why it failed, None where it did not."""
        ended = {"outcome": state.FAILED if reason else state.DONE, "ended": state.now()}
        lines = state.last_lines(self.log, state.LAST_LINES) if reason else []
        ended |= {"reason": reason, "last_lines": lines}
        write_json(self.folder / state.STATE, self.state | ended)

    @property
    def data(self) -> str | None:
        """The sha256 of the annotations that the finished or begun cell was run on."""
        finished = state.read_json(self.folder / state.METRICS)
        begun = state.read_json(self.folder / "provenance.json").get("run") or {}
        found = (finished or begun).get("data")
        return found.get("sha256") if isinstance(found, dict) else None


def backbone(output: Path, init: Init) -> Path:
    """Where the converted weights of ``init`` lie, shared by its cells."""
    return output / init.name / "backbone.pth"


def pretrain_command(init: Init, output: Path) -> list[str]:
    """The command that trains the checkpoint of ``init``, from the start or from where it was."""
    command = [sys.executable, "-m", "pretrain", "--config-file", init.pretrain.config, "--resume"]
    return [*command, "OUTPUT_DIR", str(init.source(output)), *init.pretrain.overrides]


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


def all_stages(matrix: Matrix, output: Path) -> list[Stage]:
    """All stages of a matrix, each after the one that it needs.

    Raises ConfigError for settings that a cell cannot be run with.
    """
    stages: list[Stage] = []
    last: dict[str, Stage] = {}  # before the cells of each init
    for init in matrix.inits:
        for kind in init.stages:
            trains = kind == PRETRAIN
            last[init.name] = Stage(
                name=f"{init.name}/{kind}",
                kind=kind,
                init=init,
                output=output,
                folder=init.source(output) if trains else output / init.name,
                log=output / init.name / f"{kind}.log",
                product="checkpoints/step_*.pth" if trains else backbone(output, init).name,
                request={"settings": init.pretrain.settings} if trains else {"method": init.method},
                command=(pretrain_command if trains else convert_command)(init, output),
                processes=init.pretrain.processes if trains else 1,
                before=last.get(init.name),
                datasets=matrix.datasets,
            )
            stages.append(last[init.name])
    asked = {
        (init.name, task): matrix.fine_tuning(init, task)
        for init in matrix.inits
        for task in matrix.tasks
    }
    for cell in matrix.cells(output):
        init, fine_tuning = cell.init, asked[cell.init.name, cell.task]
        request = {"method": init.method, "settings": fine_tuning.settings}
        if init.pretrain is not None:
            request["pretrain"] = init.pretrain.settings
        stages.append(
            Stage(
                name=cell.name,
                kind=cell.task,
                init=init,
                output=output,
                folder=cell.folder,
                log=cell.folder / state.LOG,
                product=state.METRICS,
                request=request,
                command=fine_tune_command(cell, fine_tuning, output),
                processes=fine_tuning.processes,
                before=last.get(init.name),
                datasets=matrix.datasets,
                fine_tuning=fine_tuning,
            )
        )
    return stages


def stages_to_do(stages: Sequence[Stage], anew: Collection[str] = ()) -> list[Stage]:
    """The cells that are to run, and what of the stages before them they wait for.

    anew: the names of those that would be run again, though they have left what they should.
    """
    todo: dict[str, Stage] = {}
    for stage in stages:  # each after the one that it needs
        other_weights = stage.kind == CONVERT and stage.needs in todo
        if not stage.done or stage.name in anew or other_weights:
            todo[stage.name] = stage
    wanted: set[str | None] = set()
    for stage in reversed(list(todo.values())):
        if stage.is_cell or stage.name in wanted:
            wanted.add(stage.needs)
        else:
            del todo[stage.name]
    return list(todo.values())


@functools.cache  # a checkpoint is large, and asked for often
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    return sha256_of(path)


def _checkpoint(source: Path) -> dict[str, str]:
    """The hash of the checkpoint in that place, if there is one."""
    file = newest(source)
    if not file.is_file():
        return {}
    stat = file.stat()
    return {"checkpoint": _sha256(file, stat.st_size, stat.st_mtime_ns)}
