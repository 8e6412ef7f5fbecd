"""What is committed of the replicates of the scenes benchmark, below ``scenes_results/<seed>/``.

    replicate.json                       seed, scenes, commit, hardware, packages, hours
    <regime>/<init>/pretrain.json        curves and hashes of the init's own pretraining
    <regime>/<init>/<task>/metrics.json  as ``python -m transfer`` wrote it, byte for byte
    <regime>/<init>/<task>/curve.json    its training loss, and its evaluations if it had any

``publish`` writes it from a finished run, ``read_replicates`` trusts none of it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checks import check_keys
from benchmarks.matrix import CONVERT, Init, Matrix, short
from benchmarks.tables.published import TaskInfo, load_published
from benchmarks.tables.results import METRICS, Result, ResultError, read_result
from benchmarks.sources import read_json
from pretrain.runtime.config import ConfigError, config_hash
from pretrain.runtime.files import write_bytes, write_json

RESULTS = Path(__file__).with_name("scenes_results")
AGAIN = RESULTS.with_name("scenes_again")  # likewise, of seeds that were run a second time
ABOUT, PRETRAINING, CURVE = "replicate.json", "pretrain.json", "curve.json"
FORMAT = 1
FULL, FROZEN = "full", "frozen"  # the two regimes; all others are ablations
SCENES = "scenes"  # in the hours, beside the regimes
INITS = CLOVE, RANDOM = "clove", "random"  # which are compared
MAX_POINTS = 50  # of one curve
OF_REPLICATE = ("SEED", "DATA.ROOT")  # in which the pretrainings of all replicates differ

ABOUT_KEYS = ("format", "seed", "scenes", "git_commit", "hardware", "packages", "hours")
SCENES_KEYS = ("format", "unlabelled", "train", "val", "longest_side", "seed", "easy")
PRETRAINING_KEYS = (
    *("loss", "match_rate", "checkpoint_sha256", "backbone_sha256", "config_sha256"),
    *("git_commit", "seconds"),
)

Curve = dict[str, list[float | None]]  # by name; null where it was not finite


@dataclass(frozen=True)
class Replicate:
    """One seed's scenes, pretraining and fine-tunings, as far as they are committed."""

    seed: int
    about: dict[str, Any]  # the content of replicate.json
    results: dict[tuple[str, str, str], Result] = field(default_factory=dict)  # regime, init, task
    curves: dict[tuple[str, str, str], Curve] = field(default_factory=dict)
    pretrainings: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------
# Writing


def publish(
    regime: str, matrix: Matrix, output: Path, begun: Mapping[str, Any], folder: Path
) -> int:
    """Copy what is committed of a finished regime into the replicate's ``folder``.

    output: of the matrix. begun: ``replicate.json`` less its hours of regimes. Files of the regime
    that do not belong to it any more go. Returns how many are there. Raises ConfigError, before
    anything is written, for a file of the run that is missing or cannot be used.
    """
    content: dict[Path, bytes] = {}
    weights: dict[str, set[str | None]] = {}
    seconds = 0.0
    for cell in matrix.cells(output):
        path, place = cell.folder / METRICS, Path(cell.init.name, cell.task)
        try:
            result = read_result(path, path.relative_to(output).parts)
        except ResultError as error:
            raise ConfigError(
                f"{short(path)}: {error}. Delete it: the same command runs this cell again"
            ) from error
        seconds += result.seconds
        weights.setdefault(cell.init.name, set()).add(result.weights_sha256)
        content[place / METRICS] = path.read_bytes()
        content[place / CURVE] = _json(_curve(cell.folder / "training.jsonl", result.main_metric))
    hours = {"fine_tuning": _hours(seconds)}
    for init in matrix.inits:
        if CONVERT in init.stages:
            took = _seconds_of(f"{init.name}/{CONVERT}", output / "log.txt")
            hours["conversion"] = _hours(took)
        if init.pretrain is not None:
            record = _pretraining(init, output, weights[init.name])
            hours["pretraining"] = _hours(record["seconds"])
            content[Path(init.name, PRETRAINING)] = _json(record)
    about = _with_hours(begun, folder / ABOUT, regime, hours)
    for place, data in content.items():
        write_bytes(folder / regime / place, data)
    for path in [path for path in (folder / regime).rglob("*") if path.is_file()]:
        if path.relative_to(folder / regime) not in content:
            path.unlink()
    write_json(folder / ABOUT, about)
    return len(content)


def _with_hours(
    begun: Mapping[str, Any], path: Path, regime: str, hours: dict[str, float | None]
) -> dict[str, Any]:
    """``begun`` with the hours of ``regime``, and those of others that were published before."""
    others = _object(path)["hours"] if path.exists() else {}
    regimes = {name: others[name] for name in others if name != SCENES} | {regime: hours}
    return {**begun, "hours": begun["hours"] | dict(sorted(regimes.items()))}


def _pretraining(init: Init, output: Path, weights: set[str | None]) -> dict[str, Any]:
    """The content of ``pretrain.json``; ``weights``: hashes of what the cells were fine-tuned from.

    ``seconds`` are those of training alone: images over the rates in the log, without the start,
    the monitors and what an interruption lost; null where the log has no rate.
    ``config_sha256``: of the resolved config less what differs between replicates.
    """
    run = init.source(output)
    lines = _lines(run / "metrics.jsonl")
    losses = [line for line in lines if "loss" in line]
    matches = [line for line in lines if "monitor/match_rate" in line]
    if not losses:
        raise ConfigError(f"{short(run / 'metrics.jsonl')}: no loss in it; delete {short(run)}")
    source = output / init.name / "source.json"
    if len(weights) != 1 or "sha256" not in read_json(source):
        raise ConfigError(
            f"{short(source)}: does not tell of one checkpoint that all cells of {init.name} came "
            f"from (their weights: {weights}). Delete {short(source.parent)} and run it anew"
        )
    settings = init.pretrain.settings
    return {
        "loss": _columns(losses, step="step", loss="loss"),
        "match_rate": _columns(
            matches,
            step="step",
            match_rate="monitor/match_rate",
            match_chance="monitor/match_chance",
        ),
        "checkpoint_sha256": read_json(source)["sha256"],
        "backbone_sha256": next(iter(weights)),
        "config_sha256": config_hash(settings, OF_REPLICATE),
        "git_commit": read_json(run / "provenance.json").get("git_commit"),
        "seconds": _training_seconds(losses, int(settings["SOLVER.TOTAL_BATCH_SIZE"])),
    }


def _training_seconds(losses: Sequence[Mapping[str, Any]], batch_size: int) -> float | None:
    seconds, step, rate = 0.0, 0, None
    for line in losses:
        # A last window of one step may have no rate: the one before it had counted its images
        rate = line.get("images_per_second") or rate
        if rate is None:
            return None
        seconds += (line["step"] - step) * batch_size / rate
        step = line["step"]
    return round(seconds, 1)


def _curve(path: Path, main_metric: str) -> dict[str, Any]:
    """The content of ``curve.json``."""
    records: dict[int, dict[str, Any]] = {}
    for line in _lines(path):  # what was done twice, around an interruption, is the same twice
        records.setdefault(line.get("iteration", 0), {"iteration": 0}).update(line)
    by_iteration = [records[iteration] for iteration in sorted(records)]
    losses = [record for record in by_iteration if "total_loss" in record]
    evaluations = [record for record in by_iteration if main_metric in record]
    if not losses:
        raise ConfigError(
            f"{short(path)}: no total_loss in it. Delete {short(path.parent)}: the same command "
            "runs this cell again"
        )
    curve = _columns(losses, iteration="iteration", total_loss="total_loss")
    if evaluations:
        columns = {"iteration": "iteration", main_metric: main_metric}
        curve["evaluations"] = _columns(evaluations, len(evaluations), **columns)
    return curve


def _columns(records: Sequence[Mapping[str, Any]], most: int = MAX_POINTS, **names: str) -> Curve:
    """Of at most ``most`` records, evenly spaced, first and last among them, a list by name."""
    last = len(records) - 1
    if last >= most:
        records = [records[round(n * last / (most - 1))] for n in range(most)]
    return {
        column: [_finite(record.get(name)) for record in records] for column, name in names.items()
    }


def _finite(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number and math.isfinite(value) else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a log of one per line; a line that a killed process cut off is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ConfigError(
            f"{short(path)}: {error.strerror}. Delete {short(path.parent)}: the same command makes "
            "it again"
        ) from error
    objects = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            objects.append(record)
    return objects


def _seconds_of(stage: str, log: Path) -> float | None:
    """How long the log of ``python -m benchmarks run`` says that a stage took, last."""
    text = log.read_text(errors="replace") if log.exists() else ""
    form = rf"\] {re.escape(stage)} took (?:(\d+) h )?(\d+) min(?: (\d+) s)?"
    found = [[int(number or 0) for number in match] for match in re.findall(form, text)]
    if not found:
        return None
    hours, minutes, seconds = found[-1]
    return 3600 * hours + 60 * minutes + seconds


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 3600, 4)


def _json(value: Any) -> bytes:
    return (json.dumps(value, allow_nan=False) + "\n").encode()


# ---------------------------------------------------------------------------------------------
# Reading


def read_replicates(folder: Path = RESULTS) -> list[Replicate]:
    """All replicates in ``folder``, by seed; none where there is no such folder.

    Raises ConfigError for a file that is corrupt or does not belong there, and for two seeds that
    share one pretraining: they are no two replicates.
    """
    if not folder.exists():
        return []
    seeds = []
    for path in sorted(folder.iterdir()):
        if not (path.is_dir() and re.fullmatch(r"0|[1-9]\d*", path.name)):
            raise _foreign(path)
        seeds.append(int(path.name))
    tasks = load_published()
    replicates = [_read(folder / str(seed), seed, tasks) for seed in sorted(seeds)]
    _require_own_weights(replicates)
    return replicates


def _read(folder: Path, seed: int, tasks: Mapping[str, TaskInfo]) -> Replicate:
    replicate = Replicate(seed, _read_about(folder / ABOUT, seed))
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        match path.relative_to(folder).parts:
            case (name,) if name == ABOUT:
                pass
            case (regime, init, name) if init in INITS and name == PRETRAINING:
                replicate.pretrainings[regime, init] = _read_pretraining(path)
            case (regime, init, task, name) if init in INITS and task in tasks and name == METRICS:
                result = _read_metrics(path, (init, task, seed), tasks[task].main_metric)
                replicate.results[regime, init, task] = result
            case (regime, init, task, name) if init in INITS and task in tasks and name == CURVE:
                replicate.curves[regime, init, task] = _read_curve(path)
            case _:
                raise _foreign(path)
    for alone in replicate.results.keys() ^ replicate.curves.keys():
        raise ConfigError(
            f"{short(folder.joinpath(*alone))}: {METRICS} and {CURVE} belong together, and one is "
            "missing. Restore it, or run the replicate anew"
        )
    return replicate


def _read_about(path: Path, seed: int) -> dict[str, Any]:
    about = check_keys(_object(path), short(path), ABOUT_KEYS, ABOUT_KEYS)
    if (about["format"], about["seed"]) != (FORMAT, seed):
        raise ConfigError(
            f"{short(path)}: format {about['format']}, seed {about['seed']}; expected format "
            f"{FORMAT}, seed {seed}. Restore it, or run the replicate anew"
        )
    check_keys(about["scenes"], f"{short(path)}: scenes", SCENES_KEYS, SCENES_KEYS)
    hours = about["hours"]
    of_regimes = [] if not isinstance(hours, dict) else [v for k, v in hours.items() if k != SCENES]
    if not of_regimes or not all(isinstance(entry, dict) for entry in of_regimes):
        raise ConfigError(
            f"{short(path)}: hours: expected a mapping for each regime, found {hours!r}. Restore "
            "it, or run the replicate anew"
        )
    return about


def _read_metrics(path: Path, cell: tuple[str, str, int], main_metric: str) -> Result:
    init, task, seed = cell
    try:
        result = read_result(path, (init, task, f"seed{seed}", METRICS))
        if main_metric not in result.metrics:
            raise ResultError(f"field metrics.{main_metric} is missing")
    except ResultError as error:
        raise ConfigError(
            f"{short(path)}: {error}. Restore it, or run the replicate anew"
        ) from error
    return result


def _read_curve(path: Path) -> Curve:
    curve = check_keys(_object(path), short(path), ("iteration", "total_loss", "evaluations"))
    _check_columns(curve, ("iteration", "total_loss"), short(path))
    return curve


def _read_pretraining(path: Path) -> dict[str, Any]:
    required = [key for key in PRETRAINING_KEYS if key not in ("git_commit", "seconds")]
    record = check_keys(_object(path), short(path), PRETRAINING_KEYS, required)
    _check_columns(record["loss"], ("step", "loss"), f"{short(path)}: loss")
    names = ("step", "match_rate", "match_chance")
    _check_columns(record["match_rate"], names, f"{short(path)}: match_rate")
    return record


def _check_columns(curve: Any, names: Iterable[str], where: str) -> None:
    """Lists of numbers or null, all of one length; the first one's are never null."""
    lists = [curve.get(name) if isinstance(curve, dict) else None for name in names]
    good = all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists)
    if not good or any(v is not None and _finite(v) is None for column in lists for v in column):
        raise ConfigError(
            f"{where}: expected lists of numbers, of one length, of {', '.join(names)}. Restore "
            "the file, or run the replicate anew"
        )
    if None in lists[0]:
        raise ConfigError(f"{where}: null in {next(iter(names))}. Restore the file")


def _require_own_weights(replicates: Iterable[Replicate]) -> None:
    """n counts pretrainings: fine-tuning one of them with two seeds makes no two replicates."""
    owners: dict[tuple[str, str], int] = {}
    for replicate in replicates:
        for (regime, _, _), result in replicate.results.items():
            if result.weights_sha256 is None:
                continue
            owner = owners.setdefault((regime, result.weights_sha256), replicate.seed)
            if owner != replicate.seed:
                raise ConfigError(
                    f"scenes_results: {regime}: {owner} and {replicate.seed} were fine-tuned from "
                    f"the same weights, {result.weights_sha256}, so they are one replicate. Remove "
                    "one of the two"
                )


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{short(path)}: not readable ({error}). Restore it, or run the replicate anew"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{short(path)}: expected an object, found {content!r}. Restore it, or run the "
            "replicate anew"
        )
    return content


def _foreign(path: Path) -> ConfigError:
    return ConfigError(
        f"{short(path)}: not what python -m benchmarks.replicate writes there "
        f"(<seed>/<regime>/{CLOVE} or {RANDOM}/<task>/{METRICS}); move it out"
    )
