"""YAML with _BASE_, then KEY VALUE; nothing executes, nothing unknown passes."""

import pytest
from fvcore.common.config import CfgNode

from pretrain.runtime.config import ConfigError, config_hash, load_yaml, merge


@pytest.fixture
def cfg():
    return CfgNode({"LR": 0.1, "NAME": "", "SOLVER": {"STEPS": (1, 2), "EPS": 1e-3, "ITERS": 5}})


def test_base_then_file_then_overrides(cfg, tmp_path):
    (tmp_path / "base.yaml").write_text("LR: 0.2\nSOLVER:\n  ITERS: 7\n  STEPS: (3, 4)\n")
    (tmp_path / "run.yaml").write_text("_BASE_: base.yaml\nSOLVER: {ITERS: 8}\n")
    merge(cfg, tmp_path / "run.yaml", ["SOLVER.STEPS", "(5,)"])
    assert (cfg.LR, cfg.SOLVER.ITERS, cfg.SOLVER.STEPS) == (0.2, 8, (5,))


def test_whole_numbers_become_floats_where_floats_are_due(cfg, tmp_path):
    (tmp_path / "run.yaml").write_text("LR: 1\n")
    merge(cfg, tmp_path / "run.yaml", ["SOLVER.EPS", "2"])
    assert [type(value) for value in (cfg.LR, cfg.SOLVER.EPS)] == [float, float]
    assert (cfg.LR, cfg.SOLVER.EPS) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVR: {ITERS: 1}", r"unknown key SOLVR\.ITERS \(did you mean SOLVER\.ITERS\?\)"),
        ("SOLVER: {ITERS: many}", r"run\.yaml: Type mismatch"),
        ("- a list", "expected a mapping"),
        ("LR: !!python/object/apply:os.system ['touch canary']", "could not determine"),
        ("_BASE_: nowhere.yaml", r"nowhere\.yaml"),
        ("_BASE_: 5", r"_BASE_ 5 is not the name of one file"),
        ("_BASE_: run.yaml", r"run\.yaml: is its own _BASE_"),
        ("LR: [unclosed", "while parsing"),
    ],
)
def test_bad_yaml_names_the_file_and_the_fault(cfg, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        merge(cfg, tmp_path / "run.yaml")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.ITER", "1"], r"did you mean SOLVER\.ITERS"),
        (["LR"], "'LR' has no partner"),
        (["LR", "fast"], "Type mismatch"),
    ],
)
def test_bad_overrides_are_named(cfg, overrides, message):
    with pytest.raises(ConfigError, match=message):
        merge(cfg, None, overrides)


def test_an_equals_sign_and_the_home_folder_are_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "x.yaml").write_text("A: {B: ~/data}\n")
    node = CfgNode({"A": {"B": ""}, "D": "", "E": ""})
    merge(node, tmp_path / "x.yaml", ["D=~/runs", "E", "a=b"])
    assert (node.A.B, node.D, node.E) == ("/home/me/data", "/home/me/runs", "a=b")


def test_hash_ignores_the_named_keys_only(cfg):
    before = config_hash(cfg, ["NAME", "SOLVER"])
    cfg.NAME, cfg.SOLVER.ITERS = "x", 9
    assert config_hash(cfg, ["NAME", "SOLVER"]) == before
    cfg.LR = 0.3
    assert config_hash(cfg, ["NAME", "SOLVER"]) != before


def test_a_key_that_is_written_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("LOG: {PERIOD: 1}\nSOLVER:\n  EPOCHS: 1\n  EPOCHS: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: line 4: EPOCHS is there twice"):
        load_yaml(path)
