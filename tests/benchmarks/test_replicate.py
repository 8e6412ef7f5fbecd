"""One replicate, with stand-ins for what takes hours: what it runs, and what is committed of it."""

import itertools
import json
import math
import os
import signal
import subprocess
import time

import pytest

from benchmarks import replicate
from benchmarks.__main__ import main as benchmarks_main
from benchmarks.committed import MAX_POINTS, read_replicates
from benchmarks.matrix import load_matrix
from pretrain.runtime.config import REPOSITORY, load_yaml
from tests.benchmarks.replicates import TASKS, Lab, use_folder

OF_TASK = ("metrics.json", "curve.json")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    use_folder(tmp_path, monkeypatch.setattr)
    return Lab(tmp_path)


def test_one_command_runs_both_regimes_from_one_seed_and_publishes_them(lab):
    assert lab.run("--seed", "100") == 0
    cells = [f"{init}/{task}" for init in ("clove", "random") for task in TASKS]
    wanted = {
        f"100/{r}/{cell}/{name}" for r in ("full", "frozen") for cell in cells for name in OF_TASK
    }
    committed = lab.committed()
    assert committed.keys() == wanted | {"100/replicate.json", "100/full/clove/pretrain.json"}
    for regime in ("full", "frozen"):
        for cell in cells:
            of_run = lab.runs / "100" / regime / cell / "seed100" / "metrics.json"
            assert committed[f"100/{regime}/{cell}/metrics.json"] == of_run.read_bytes()
    drawn = json.loads((lab.runs / "100" / "data" / "scenes.json").read_text())
    sizes = {"unlabelled": 3000, "train": 400, "val": 200, "longest_side": 256, "easy": True}
    assert drawn == sizes | {"seed": 100}
    about = json.loads(committed["100/replicate.json"])
    assert about["scenes"] == drawn | {"format": replicate.scenes.FORMAT}
    assert about["packages"]["python"]
    assert about["hours"]["full"]["fine_tuning"] == pytest.approx(4 * 61.5 / 3600, abs=1e-4)
    (read,) = read_replicates(lab.results)
    assert len(read.results) == len(read.curves) == 8


def test_two_stages_run_at_once(lab):
    lab.order(clove="meet", random="meet")  # each cell waits until another one has started
    assert lab.run("--seed", "100", "--regime", "full") == 0
    assert lab.calls("100/full/clove/coco_fpn/seed100") == 1


def test_nothing_committed_names_a_folder_of_the_machine(lab):
    assert lab.run("--seed", "100") == 0
    for place, content in lab.committed().items():
        assert str(lab.folder).encode() not in content, place
        assert str(REPOSITORY).encode() not in content, place


def test_frozen_trunks_come_from_the_pretraining_of_the_full_regime(lab):
    assert lab.run("--seed", "101") == 0
    assert lab.calls("101/full/clove/pretrain") == 1
    assert not (lab.runs / "101" / "frozen" / "clove" / "pretrain").exists()
    backbones = [
        lab.runs / "101" / regime / "clove" / "backbone.pth" for regime in ("full", "frozen")
    ]
    assert [path.read_text() for path in backbones] == ["converted 101"] * 2  # PRETRAIN's seed


def test_the_same_command_again_runs_nothing_and_writes_the_same_bytes(lab, monkeypatch):
    assert lab.run("--seed", "100") == 0
    before = lab.committed()
    changed = {"git_commit": "another", "hardware": "another", "packages": {}}
    monkeypatch.setattr(replicate, "provenance", lambda: changed)
    assert lab.run("--seed", "100") == 0
    assert lab.committed() == before
    for regime in ("full", "frozen"):
        assert lab.calls(f"100/{regime}/clove/coco_fpn/seed100") == 1


def test_interrupted_replicate_goes_on_and_repeats_nothing(lab):
    lab.order(random="wait")
    process = lab.start("--seed", "100", "--slots", "1")
    cell = lab.runs / "100" / "full" / "random" / "coco_fpn" / "seed100"
    while process.poll() is None and not (cell / "started").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    error = process.communicate()[1]
    assert process.returncode == 75, error
    assert (cell / "saved").exists()
    assert lab.committed() == {}
    assert not (lab.runs / "100" / "frozen").exists()
    lab.order()
    assert lab.run("--seed", "100") == 0
    assert lab.calls("100/full/clove/pretrain") == 1
    assert lab.calls("100/full/clove/coco_fpn/seed100") == 1
    assert lab.calls("100/full/random/coco_fpn/seed100") == 2
    assert "100/frozen/random/coco_fpn/metrics.json" in lab.committed()


def test_interrupted_while_scenes_are_drawn_the_same_command_goes_on(lab, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(replicate.scenes, "generate", interrupted)
        assert lab.run("--seed", "100") == 75
    assert "the same command goes on" in capsys.readouterr().err
    assert lab.run("--seed", "100") == 0


def test_a_failed_cell_ends_the_replicate_and_nothing_of_its_regime_is_published(lab):
    lab.order(random="fail")
    assert lab.run("--seed", "100") == 1
    assert lab.committed() == {}
    assert not (lab.runs / "100" / "frozen").exists()


def test_each_regime_is_a_yaml_that_runs_by_hand(lab):
    assert lab.run("--seed", "100") == 0
    for regime in ("full", "frozen"):
        config, output = lab.runs / "100" / f"{regime}.yaml", lab.runs / "100" / regime
        assert str(config) in config.read_text().splitlines()[0]
        words = ["run", "--config-file", str(config), "--output", str(output)]
        assert benchmarks_main(words) == 0
        assert "4 of 4 cells are done" in (output / "log.txt").read_text().splitlines()[-1]


def test_ablations_are_further_regimes_with_the_same_data(lab):
    changed = {"pretrain": {"overrides": {"CROPS.NUM_LOCALS": 2}}}
    lab.write("scenes-locals", _BASE_="scenes.yaml", inits={"clove": changed}, tasks=["coco_fpn"])
    assert lab.run("--seed", "100") == 0
    assert lab.run("--seed", "100", "--regime", "locals") == 0
    matrix = load_matrix(lab.runs / "100" / "locals.yaml")
    assert matrix.datasets == lab.runs / "100" / "data"
    settings = matrix.inits[0].pretrain.settings
    assert (settings["CROPS.NUM_LOCALS"], settings["SEED"]) == ("2", "100")
    committed = lab.committed()
    full, ablation = (
        json.loads(committed[f"100/{regime}/clove/pretrain.json"])["config_sha256"]
        for regime in ("full", "locals")
    )
    assert full != ablation
    hours = json.loads(committed["100/replicate.json"])["hours"]
    assert hours.keys() == {"scenes", "full", "frozen", "locals"}


def test_a_quarter_of_the_labels_is_drawn_for_its_regime_alone(lab):
    trained = {"pretrain": None, "checkpoint": f"{lab.runs}/SEED/full/clove/pretrain"}
    lab.write("scenes-quarter", _BASE_="scenes.yaml", inits={"clove": trained}, tasks=["coco_fpn"])
    assert lab.run("--seed", "100") == 0
    assert not (lab.runs / "100" / "data-quarter").exists()
    assert lab.run("--seed", "100", "--regime", "quarter") == 0
    whole, quarter = (
        json.loads((lab.runs / "100" / name / "scenes.json").read_text())
        for name in ("data", "data-quarter")
    )
    assert quarter == whole | {"unlabelled": 0, "train": 100}
    assert load_matrix(lab.runs / "100" / "quarter.yaml").datasets == lab.runs / "100/data-quarter"
    assert "100/quarter/random/coco_fpn/metrics.json" in lab.committed()


def test_fewer_labels_are_the_first_of_all(tmp_path):
    for train in (2, 4):
        scenes = replicate.scenes
        scenes.generate(tmp_path / str(train), scenes.Request(0, train, 1, longest_side=96, seed=3))
    few, all_of_them = (
        json.loads((tmp_path / train / "coco/annotations/instances_train2017.json").read_text())
        for train in "24"
    )
    first = {image["id"] for image in few["images"]}
    for name in ("images", "annotations"):
        key = "id" if name == "images" else "image_id"
        assert few[name] == [entry for entry in all_of_them[name] if entry[key] in first]


def test_pretrainings_of_all_seeds_have_one_config_hash(lab):
    for seed in ("100", "101"):
        assert lab.run("--seed", seed, "--regime", "full") == 0
    first, second = (
        replicate.pretrainings["full", "clove"] for replicate in read_replicates(lab.results)
    )
    assert first["config_sha256"] == second["config_sha256"]
    assert first["checkpoint_sha256"] != second["checkpoint_sha256"]


def test_pretrain_json_tells_what_the_log_and_the_hashes_say(lab):
    assert lab.run("--seed", "100", "--regime", "full") == 0
    record = json.loads(lab.committed()["100/full/clove/pretrain.json"])
    assert record["loss"]["step"] == list(range(10, 301, 10))
    assert record["loss"]["loss"][-1] == 97.0
    assert record["match_rate"]["step"] == [0, 100, 200, 300]
    assert record["match_rate"]["match_rate"] == [0.2, 0.1, 0.2, 0.3]
    assert record["match_rate"]["match_chance"] == [0.2] * 4
    # 300 steps of 8 images (Base-scenes.yaml) at 4 images a second
    assert record["seconds"] == 600.0
    assert record["git_commit"] == "ba5eba11"
    source = json.loads((lab.runs / "100" / "full" / "clove" / "source.json").read_text())
    assert record["checkpoint_sha256"] == source["sha256"]
    assert record["backbone_sha256"] == f"{100:064x}"
    hours = json.loads(lab.committed()["100/replicate.json"])["hours"]["full"]
    assert hours["pretraining"] == pytest.approx(600 / 3600, abs=1e-4)
    assert 0 <= hours["conversion"] < 0.1


def training_log(lab, lines):
    """Publish with other lines in the log of one cell; returns its curve."""
    assert lab.run("--seed", "100", "--regime", "full") == 0
    log = lab.runs / "100" / "full" / "random" / "coco_fpn" / "seed100" / "training.jsonl"
    log.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    assert lab.run("--seed", "100", "--regime", "full") == 0
    content = lab.committed()["100/full/random/coco_fpn/curve.json"]
    # 26 cells and 5 pretrainings make a replicate with all ablations, of at most 300 kB
    assert len(content) < 5000
    return json.loads(content)


def test_a_long_curve_keeps_its_ends_and_is_evenly_thinned(lab):
    lines = [{"iteration": 20 * n + 19, "total_loss": math.pi / (n + 1)} for n in range(5000)]
    curve = training_log(lab, lines)
    places = [(iteration - 19) // 20 for iteration in curve["iteration"]]
    assert len(places) == MAX_POINTS
    assert (places[0], places[-1]) == (0, 4999)
    steps = {later - earlier for earlier, later in itertools.pairwise(places)}
    assert max(steps) - min(steps) <= 1
    assert curve["total_loss"] == [math.pi / (place + 1) for place in places]
    assert "evaluations" not in curve


def test_a_curve_has_every_evaluation_and_each_iteration_once(lab):
    lines = [{"iteration": n, "total_loss": 1.0 + n} for n in range(100)]
    lines += [{"iteration": n, "bbox/AP": n / 10} for n in (30, 60, 90)]
    lines += ['{"iteration": 99, "total_lo', {"iteration": 99, "total_loss": 100.0}]
    lines += ['{"iteration": 101, "total_loss": NaN}', '{"iteration": 101, "bbox/AP": NaN}']
    curve = training_log(lab, lines)
    assert curve["evaluations"] == {"iteration": [30, 60, 90, 101], "bbox/AP": [3, 6, 9, None]}
    assert curve["iteration"][-2:] == [98, 101]
    assert curve["total_loss"][-2:] == [99.0, None]
    assert len(set(curve["iteration"])) == MAX_POINTS


def test_what_a_config_names_no_more_is_removed_from_the_results(lab):
    assert lab.run("--seed", "100", "--regime", "full") == 0
    tree = load_yaml(lab.configs / "scenes.yaml")
    lab.write("scenes", **tree | {"tasks": ["coco_fpn"]})
    assert lab.run("--seed", "100", "--regime", "full") == 0
    assert {place.split("/")[3] for place in lab.committed() if place.count("/") == 4} == {
        "coco_fpn"
    }


def test_a_corrupt_result_of_the_run_is_set_aside_and_not_published(lab):
    lab.order(random="fail")
    assert lab.run("--seed", "100", "--regime", "full") == 1
    full = lab.runs / "100" / "full"
    for task in TASKS:
        (full / "random" / task / "seed100" / "metrics.json").write_text('{"format": 1')
    assert lab.run("--seed", "100", "--regime", "full") == 1
    for task in TASKS:
        aside = f"random/{task}/seed100/metrics.json.bad-1"
        assert (full / aside).exists()
        assert f"{aside}: not readable as JSON" in (full / "log.txt").read_text()
    assert lab.committed() == {}


@pytest.mark.parametrize("words", [[], ["--seed", "-3"], ["--seed", "x"], ["--seed", "1.5"]])
def test_a_seed_must_be_there_and_a_whole_number(lab, capsys, words):
    with pytest.raises(SystemExit) as ended:
        lab.run(*words)
    assert ended.value.code == 2
    assert "--seed" in capsys.readouterr().err.splitlines()[-1]
    assert not lab.runs.exists()


CLOVE = {"method": "clove", "checkpoint": "runs/x/pretrain"}
OTHER = {"method": "supervised", "checkpoint": "runs/SEED/x.pth"}


@pytest.mark.parametrize(
    ("inits", "message"),
    [
        (None, "no_locals: there is no"),
        ({"clove": CLOVE}, "checkpoint runs/x/pretrain has no SEED in it"),
        ({"supervised": OTHER}, "inits: supervised: only clove and random are compared"),
        (
            {"clove": {"method": "colve"}},
            "scenes-no_locals.yaml: inits: clove: unknown method colve",
        ),
    ],
)
def test_a_bad_regime_is_an_error_before_anything_is_drawn(lab, capsys, inits, message):
    if inits is not None:
        lab.write("scenes-no_locals", inits=inits, tasks=["coco_fpn"])
    assert lab.run("--seed", "100", "--regime", "full", "no_locals") == 2
    assert message in capsys.readouterr().err
    assert not (lab.runs / "100" / "data").exists()


@pytest.mark.parametrize("done", [None, False])
def test_a_frozen_regime_waits_for_the_end_of_the_pretraining(lab, capsys, done):
    run = lab.runs / "100" / "full" / "clove" / "pretrain"
    if done is not None:  # interrupted
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "step_00000100.pth").write_text("halfway")
        (run / "request.json").write_text(json.dumps({"done": done}))
    assert lab.run("--seed", "100", "--regime", "frozen") == 2
    assert f"checkpoint {run} is no finished pretraining" in capsys.readouterr().err
    assert not (lab.runs / "100" / "frozen").exists()


def test_other_scenes_are_refused_where_a_pretraining_may_have_seen_the_first(
    lab, monkeypatch, capsys
):
    assert lab.run("--seed", "3", "--regime", "full") == 0
    (lab.runs / "3" / "data" / "scenes.json").unlink()
    monkeypatch.setattr(replicate, "REQUEST", replicate.scenes.Request(9, 4, 2, 96))
    assert lab.run("--seed", "3", "--regime", "full") == 2
    error = capsys.readouterr().err
    assert "'unlabelled': 3000" in error
    assert "'unlabelled': 9" in error
    assert f"Delete {lab.runs / '3'} as a whole" in error
    (lab.runs / "3").rename(lab.folder / "aside")
    assert lab.run("--seed", "3", "--regime", "full") == 2
    assert f"Delete {lab.results / '3'} as a whole" in capsys.readouterr().err
    (lab.results / "3").rename(lab.folder / "results_aside")
    assert lab.run("--seed", "3", "--regime", "full") == 0
    assert json.loads(lab.committed()["3/replicate.json"])["scenes"]["unlabelled"] == 9


def test_the_generators_own_refusal_is_an_error(lab, monkeypatch, capsys):
    monkeypatch.undo()
    use_only = {"RUNS": lab.runs, "RESULTS": lab.results, "CONFIGS": lab.configs}
    for name, value in use_only.items():
        monkeypatch.setattr(replicate, name, value)
    (lab.runs / "100" / "data").mkdir(parents=True)
    (lab.runs / "100" / "data" / "mine.txt").touch()
    assert lab.run("--seed", "100") == 2
    assert "exists and has no scenes.json" in capsys.readouterr().err


def test_the_shipped_regimes_are_what_the_issue_asks_for(lab, monkeypatch):
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
        assert "python -m benchmarks run --config-file runs/scenes/100/" in text
        (lab.folder / path.name).write_text(text)
        matrices[path.stem] = load_matrix(lab.folder / path.name)
    full, frozen = matrices["full"], matrices["frozen"]
    demo = load_yaml("configs/benchmarks/demo-all.yaml")["tasks"]
    assert (list(full.tasks), list(frozen.tasks)) == (demo, ["coco_fpn", "keypoints_fpn"])
    data = REPOSITORY / "runs" / "scenes" / "100" / "data"
    assert full.datasets == frozen.datasets == data
    assert set(full.seeds.values()) | set(frozen.seeds.values()) == {(100,)}
    settings = full.inits[0].pretrain.settings
    assert (settings["SEED"], REPOSITORY / settings["DATA.ROOT"]) == (
        "100",
        data / "coco/unlabeled2017",
    )
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
        "no_attention": {"MODEL.HEADS": "0"},
        "no_locals": {"CROPS.NUM_LOCALS": "0"},
        "hardest_kept": {"LOSS.NUM_SKIPPED": "0"},
    }


def test_make_asks_for_the_seed():
    def make(*words):
        command = ["make", "--dry-run", "scenes-replicate", "PYTHON=/somewhere/python", *words]
        # As if not within another make, as under `make test`
        hidden = ("MAKEFLAGS", "MAKELEVEL", "SEED")
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=env)

    without = make()
    assert without.returncode == 2
    assert "SEED is missing: make scenes-replicate SEED=100" in without.stderr
    assert make("SEED=7").stdout == "/somewhere/python -m benchmarks.replicate --seed 7\n"
