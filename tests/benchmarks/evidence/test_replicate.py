"""One replicate, with a stand-in for what takes hours: what it runs, and what is kept of it."""

import itertools
import json
import math

import pytest

from benchmarks.evidence import replicate
from benchmarks.evidence.publish import MAX_POINTS
from benchmarks.evidence.rows import read_replicates
from benchmarks.runner.matrix import load_matrix
from pretrain.runtime.config import REPOSITORY, load_yaml
from tests.benchmarks.evidence.lab import PLACES, TASKS, Lab, write_log


@pytest.fixture
def lab(tmp_path, monkeypatch):
    return Lab(tmp_path, monkeypatch)


def test_one_command_runs_both_regimes_from_one_seed_and_publishes_them(lab):
    assert lab.run("--seed", "100") == 0
    assert lab.slots == 2
    cells = list(itertools.product(("full", "frozen"), ("clove", "random"), TASKS))
    (read,) = read_replicates(lab.results)
    assert set(read.cells) == set(cells)
    for regime, init, task in cells:
        of_run = lab.runs / "100" / regime / init / task / "seed100" / "metrics.json"
        content, row = json.loads(of_run.read_text()), read.cells[regime, init, task]
        metrics = {key[3]: v for key, v in read.metrics.items() if key[:3] == (regime, init, task)}
        assert metrics == content["metrics"]
        assert row["config_sha256"] == content["config_sha256"]
        assert row["weights_sha256"] == content["weights_sha256"]
        assert row["data_sha256"] == content["data"]["sha256"]
        assert (row["seconds"], row["hardware"]) == (61.5, "CPU, 2 cores")
    drawn = json.loads((lab.runs / "100" / "data" / "scenes.json").read_text())
    sizes = {"unlabelled": 3000, "train": 400, "val": 200, "longest_side": 256, "easy": True}
    assert drawn == sizes | {"seed": 100}
    assert read.about.items() >= (drawn | {"run": 1, "format": replicate.scenes.FORMAT}).items()
    assert "torch 2" in read.about["packages"]
    for name, content in lab.files().items():
        assert str(lab.folder).encode() not in content, name
        assert str(REPOSITORY).encode() not in content, name


def test_frozen_trunks_come_from_the_pretraining_of_the_full_regime(lab):
    assert lab.run("--seed", "101") == 0
    assert lab.calls["101/full/clove/pretrain"] == 1
    assert lab.calls["101/frozen/clove/pretrain"] == 0
    (frozen,) = load_matrix(lab.runs / "101" / "frozen.yaml").inits[:1]
    assert frozen.checkpoint.is_relative_to(lab.runs / "101" / "full" / "clove" / "pretrain")
    (row,) = lab.table("pretraining", regime="frozen")
    assert (row["checkpoint_sha256"], row["seconds"]) == (None, None)


def test_the_same_command_again_runs_nothing_and_writes_the_same_bytes(lab, monkeypatch):
    assert lab.run("--seed", "100") == 0
    before, calls = lab.files(), dict(lab.calls)
    changed = {"git_commit": "another", "hardware": "another", "packages": {}}
    monkeypatch.setattr(replicate, "provenance", lambda: changed)
    assert lab.run("--seed", "100") == 0
    assert (lab.files(), lab.calls) == (before, calls)


def test_other_replicates_and_runs_of_the_seed_stay_as_they_are(lab):
    assert lab.run("--seed", "101") == 0
    before = {name: lab.table(name) for name in ("cells", "results", "curves", "replicates")}
    assert lab.run("--seed", "100", "--regime", "full") == 0
    assert lab.run("--seed", "101", "--run", "2") == 0
    for name, rows in before.items():
        assert lab.table(name, seed=101, run=1) == rows
    assert {(r["run"], r["seed"]) for r in lab.table("cells")} == {(1, 100), (1, 101), (2, 101)}


def test_seeds_for_tuning_are_not_published(lab):
    assert lab.run("--seed", "99") == 0
    assert lab.calls["99/full/clove/coco_fpn/seed99"] == 1
    assert lab.files() == {}


def test_a_regime_that_failed_is_not_published_and_the_same_command_goes_on(lab):
    lab.fail = "keypoints_fpn"
    assert lab.run("--seed", "100") == 1
    assert lab.files() == {}
    assert not (lab.runs / "100" / "frozen").exists()
    lab.fail = ""
    assert lab.run("--seed", "100") == 0
    assert set(lab.calls.values()) == {1}
    assert len(lab.table("cells")) == 8


def test_ablations_are_further_regimes_with_the_same_data(lab):
    changed = {"pretrain": {"overrides": {"CROPS.NUM_LOCALS": 2}}}
    lab.write("scenes-locals", _BASE_="scenes.yaml", inits={"clove": changed}, tasks=["coco_fpn"])
    assert lab.run("--seed", "100") == 0
    assert lab.run("--seed", "100", "--regime", "locals") == 0
    matrix = load_matrix(lab.runs / "100" / "locals.yaml")
    assert matrix.datasets == lab.runs / "100" / "data"
    settings = matrix.inits[0].pretrain.settings
    assert (settings["CROPS.NUM_LOCALS"], settings["SEED"]) == ("2", "100")
    hashes = {row["regime"]: row["config_sha256"] for row in lab.table("pretraining")}
    assert hashes["locals"] not in (None, hashes["full"])
    assert {row["regime"] for row in lab.table("cells")} == {"full", "frozen", "locals"}


def test_a_quarter_of_the_labels_is_drawn_for_its_regime_alone(lab):
    init = {"clove": lab.trained}
    lab.write("scenes-quarter", _BASE_="scenes.yaml", inits=init, tasks=["coco_fpn"])
    assert lab.run("--seed", "100") == 0
    assert not (lab.runs / "100" / "data-quarter").exists()
    assert lab.run("--seed", "100", "--regime", "quarter") == 0
    whole, quarter = (
        json.loads((lab.runs / "100" / name / "scenes.json").read_text())
        for name in ("data", "data-quarter")
    )
    assert quarter == whole | {"unlabelled": 0, "train": 100}
    assert load_matrix(lab.runs / "100" / "quarter.yaml").datasets == lab.runs / "100/data-quarter"
    assert len(lab.table("cells", regime="quarter")) == 2


def test_the_pretrainings_row_and_curves_tell_what_its_log_says(lab):
    for seed in ("100", "101"):
        assert lab.run("--seed", seed, "--regime", "full") == 0
    row, other = lab.table("pretraining")
    assert row["config_sha256"] == other["config_sha256"]
    assert row["checkpoint_sha256"] != other["checkpoint_sha256"]
    # 300 steps of 8 images (Base-scenes.yaml) at 4 images a second
    assert (row["seconds"], row["git_commit"]) == (600.0, "ba5eba11")
    assert row["backbone_sha256"] == f"{100:064x}"
    read = read_replicates(lab.results)[0]
    curves = {key[3]: own for key, own in read.curves.items() if key[2] == "pretraining"}
    assert curves == {
        "loss": {n: 100 - n / 100 for n in PLACES},
        "match_rate": {0: 0.0, 100: 0.1, 200: 0.2, 300: 0.3},
        "match_chance": dict.fromkeys((0, 100, 200, 300), 0.2),
    }


def published_curve(lab, lines):
    """Publish with other lines in the log of one cell; returns its curve."""
    assert lab.run("--seed", "100", "--regime", "full") == 0
    folder = lab.runs / "100" / "full" / "random" / "coco_fpn" / "seed100"
    write_log(folder / "training.jsonl", lines)
    assert lab.run("--seed", "100", "--regime", "full") == 0
    (read,) = read_replicates(lab.results)
    return read.curves["full", "random", "coco_fpn", "total_loss"]


def test_a_long_curve_keeps_its_ends_and_is_evenly_thinned(lab):
    lines = [{"iteration": 20 * n + 19, "total_loss": math.pi / (n + 1)} for n in range(5000)]
    curve = published_curve(lab, lines)
    places = [(iteration - 19) // 20 for iteration in curve]
    assert len(places) == MAX_POINTS
    assert (places[0], places[-1]) == (0, 4999)
    steps = {later - earlier for earlier, later in itertools.pairwise(places)}
    assert max(steps) - min(steps) <= 1
    assert list(curve.values()) == [math.pi / (place + 1) for place in places]


def test_a_curve_has_each_iteration_once_and_no_value_that_is_not_finite(lab):
    lines = [{"iteration": n, "total_loss": 1.0 + n} for n in range(100)]
    lines += ['{"iteration": 99, "total_lo', {"iteration": 99, "total_loss": 100.0}]
    lines += ['{"iteration": 101, "total_loss": NaN}', {"iteration": 101, "bbox/AP": 3.0}]
    curve = published_curve(lab, lines)
    assert list(curve.items())[-2:] == [(98, 99.0), (101, None)]
    assert len(curve) == MAX_POINTS


@pytest.mark.parametrize(
    ("inits", "message"),
    [
        (None, "scenes-no_locals.yaml: no such config file"),
        ({"clove": {"method": "colve"}}, "no_locals.yaml: inits: clove: unknown method colve"),
    ],
)
def test_a_bad_regime_is_an_error_before_anything_is_drawn(lab, capsys, inits, message):
    if inits is not None:
        lab.write("scenes-no_locals", inits=inits, tasks=["coco_fpn"])
    assert lab.run("--seed", "100", "--regime", "full", "no_locals") == 2
    assert message in capsys.readouterr().err
    assert not (lab.runs / "100" / "data").exists()


def test_a_frozen_regime_waits_for_the_end_of_the_pretraining(lab, capsys):
    run = lab.runs / "100" / "full" / "clove" / "pretrain"
    (run / "checkpoints").mkdir(parents=True)  # interrupted
    (run / "checkpoints" / "step_00000100.pth").write_text("halfway")
    assert lab.run("--seed", "100", "--regime", "frozen") == 2
    assert f"{run} is no finished pretraining" in capsys.readouterr().err
    assert not (lab.runs / "100" / "frozen").exists()


def test_fewer_labels_are_the_first_of_all(tmp_path):
    for train in (2, 4):
        scenes = replicate.scenes
        scenes.generate(tmp_path / str(train), scenes.Request(0, train, 1, longest_side=96, seed=3))
    few, all_of_them = (
        json.loads((tmp_path / train / "coco/annotations/instances_train2017.json").read_text())
        for train in "24"
    )
    first = {image["id"] for image in few["images"]}
    for name, key in (("images", "id"), ("annotations", "image_id")):
        assert few[name] == [entry for entry in all_of_them[name] if entry[key] in first]


def test_the_shipped_regimes_differ_from_full_in_what_their_names_say(lab, monkeypatch):
    from transfer.config import resolve
    from transfer.tasks import TASKS as ALL

    monkeypatch.setattr(replicate, "CONFIGS", REPOSITORY / "configs" / "benchmarks")
    monkeypatch.setattr(replicate, "RUNS", REPOSITORY / "runs" / "scenes")
    written = {}
    monkeypatch.setattr(replicate, "write_text", lambda path, text: written.update({path: text}))
    ablations = ("no_attention", "no_locals", "hardest_kept", "quarter")
    for regime in ("full", "frozen", *ablations):
        replicate.write_config(REPOSITORY / "runs" / "scenes" / "100", 100, regime)
    matrices = {}
    for path, text in written.items():
        (lab.folder / path.name).write_text(text)
        matrices[path.stem] = load_matrix(lab.folder / path.name)
    full, frozen = matrices["full"], matrices["frozen"]
    demo = load_yaml("configs/benchmarks/demo-all.yaml")["tasks"]
    assert (list(full.tasks), list(frozen.tasks)) == (demo, ["coco_fpn", "keypoints_fpn"])
    data = REPOSITORY / "runs" / "scenes" / "100" / "data"
    assert full.datasets == frozen.datasets == data
    assert set(full.seeds.values()) | set(frozen.seeds.values()) == {(100,)}
    settings = full.inits[0].pretrain.settings
    root = REPOSITORY / settings["DATA.ROOT"]
    assert (settings["SEED"], root) == ("100", data / "coco/unlabeled2017")
    assert full.inits[0].source(data.parent / "full") == frozen.inits[0].checkpoint
    words = [word for pair in frozen.overrides.items() for word in pair]
    for task in frozen.tasks:
        cfg = resolve(ALL[task].config, frozen.overlay, words)
        assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.TRANSFER.FROZEN_BN_BATCHES) == (5, 20)
    assert full.overlay == REPOSITORY / "configs" / "transfer" / "Base-scenes.yaml"
    quarter = matrices.pop("quarter")
    assert quarter.datasets == data.with_name("data-quarter")
    assert quarter.inits[0].checkpoint == frozen.inits[0].checkpoint
    assert (quarter.inits[1], quarter.tasks) == (full.inits[1], frozen.tasks)
    changes = {}
    for name in ablations[:-1]:
        (clove,), tasks = matrices[name].inits, matrices[name].tasks
        assert (tasks, matrices[name].overrides) == (frozen.tasks, full.overrides)
        changes[name] = dict(clove.pretrain.settings.items() - settings.items())
    assert changes == {
        "no_attention": {"METHOD.HEADS": "0"},
        "no_locals": {"CROPS.NUM_LOCALS": "0"},
        "hardest_kept": {"METHOD.NUM_SKIPPED": "0"},
    }
