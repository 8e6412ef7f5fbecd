"""``python -m benchmarks.evidence replicate --seed K``: one replicate of the scenes benchmark.

Scenes, pretraining and every fine-tuning of the regimes, all from the one seed K, in
``runs/scenes/K``; its numbers go to the CSV files of ``benchmarks/evidence/results``. The same
command goes on where it was interrupted, and does nothing that is done.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from benchmarks.evidence.publish import publish
from benchmarks.evidence.rows import FULL, RESULTS, SCENES, Row
from benchmarks.runner.matrix import load_matrix, short
from benchmarks.runner.run import run
from benchmarks.runner.state import read_json
from benchmarks.scenes import generate as scenes
from pretrain.runtime.config import REPOSITORY, ConfigError, load_yaml
from pretrain.runtime.files import write_json, write_text
from pretrain.runtime.provenance import provenance

RUNS = REPOSITORY / "runs" / "scenes"
CONFIGS = REPOSITORY / "configs" / "benchmarks"
REQUEST = scenes.Request(unlabelled=3000, train=400, val=200, longest_side=256, easy=True)
# Regimes with labelled scenes of their own: the first ones of all
FEWER = {"quarter": replace(REQUEST, unlabelled=0, train=REQUEST.train // 4)}
FIRST_REPORTED = 100  # seeds below it are for tuning, and their numbers are not kept
SEED = "/SEED/"  # in a checkpoint's path: the replicate's seed stands there


def replicate(seed: int, regimes: Sequence[str], slots: int, number: int = 1) -> int:
    """Run what is not done of each regime, in order, and publish each once it is done.

    ``slots`` stages at once: cells from random weights run beside the pretraining. ``number``: of
    the run. Seeds below FIRST_REPORTED are not published.

    Returns 0, or the exit code of the first regime that is not done by then: 1 where a stage
    failed, 75 where the same command goes on. Raises ConfigError and ScenesError, before anything
    is trained, for a regime or a folder that cannot be used.
    """
    folder = RUNS / str(seed)
    configs = {regime: write_config(folder, seed, regime) for regime in regimes}
    about = {"run": number, "seed": seed} | draw_scenes(folder, seed)
    for regime in FEWER.keys() & configs:
        request = replace(FEWER[regime], seed=seed)
        scenes.generate(folder / f"data-{regime}", request, os.cpu_count() or 1)
    for regime, config in configs.items():
        for init in load_yaml(config)["inits"].values():
            # An interrupted pretraining has checkpoints, too; only a finished one is converted
            checkpoint = REPOSITORY / init.get("checkpoint", "")
            if "checkpoint" in init and not checkpoint.with_name("backbone.pth").exists():
                raise ConfigError(
                    f"{config}: {short(checkpoint)} is no finished pretraining; run the regime "
                    f"{FULL} first"
                )
        if code := run(config, folder / regime, slots=slots):
            return code
        if seed >= FIRST_REPORTED:
            count = publish(regime, load_matrix(config), folder / regime, about, RESULTS)
            print(f"seed {seed}: {regime} is done; {count} cells are in {short(RESULTS)}")
    return 0


def write_config(folder: Path, seed: int, regime: str) -> str:
    """Write ``folder``/<regime>.yaml, which ``python -m benchmarks run`` takes; returns its name.

    The regime's own config with the replicate's data and seed. Raises ConfigError where there is
    none.
    """
    base = CONFIGS / ("scenes.yaml" if regime == FULL else f"scenes-{regime}.yaml")
    where, data, inits = short(base), short(folder / "data"), {}
    tree = load_yaml(where)
    for init in load_matrix(where).inits:
        if init.pretrain is not None:
            overrides = {"SEED": seed, "DATA.ROOT": f"{data}/coco/unlabeled2017"}
            inits[init.name] = {"pretrain": {"overrides": overrides}}
        elif init.checkpoint is not None:
            checkpoint = tree["inits"][init.name]["checkpoint"]
            inits[init.name] = {"checkpoint": checkpoint.replace(SEED, f"/{seed}/")}
    labelled = f"{data}-{regime}" if regime in FEWER else data
    own = {"_BASE_": where, "datasets": labelled, "inits": inits, "seeds": [seed]}
    path = folder / f"{regime}.yaml"
    write_text(path, yaml.safe_dump(own, sort_keys=False))
    return short(path)


def draw_scenes(folder: Path, seed: int) -> Row:
    """Draw the scenes that are not there yet; returns what ``replicates.csv`` says of them."""
    request, record = replace(REQUEST, seed=seed), folder / "replicate.json"
    start = time.monotonic()
    drawn = scenes.generate(folder / "data", request, os.cpu_count() or 1)
    if drawn is not None or not record.exists():
        asked = {"format": scenes.FORMAT} | asdict(request)
        hours = None if drawn is None else round((time.monotonic() - start) / 3600, 4)
        source = provenance()
        packages = "; ".join(f"{name} {version}" for name, version in source["packages"].items())
        about = {name: int(asked[name]) for name in SCENES} | {"hours": hours}
        write_json(record, about | source | {"packages": packages})
    return read_json(record)
