"""What the README names is there: modules, make targets, configs, files, config keys."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from pretrain.config import get_cfg
from pretrain.runtime.config import flatten
from transfer.config import default_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_modules_exist():
    names = set(re.findall(r"(?:python|torchrun[^\n]*?) -m ([a-z_.]+)", TEXT))
    assert {"pretrain", "transfer", "transfer.convert", "benchmarks"} <= names
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<=`)make ([a-z-]+)|^make ([a-z-]+)", TEXT, re.MULTILINE)) <= {
        pair for name in targets for pair in ((name, ""), ("", name))
    }


def dry_run(*words: str) -> str:
    command = ["make", "--dry-run", "--always-make", *words]
    outer = ("MAKEFLAGS", "MAKEOVERRIDES", "PYTHON", "WHEELHOUSE")  # of a make that runs this test
    env = {key: value for key, value in os.environ.items() if key not in outer}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    return done.stdout


def test_a_given_interpreter_is_used_and_nothing_installed():
    for target in ("demo", "test", "smoke", "lint"):
        commands = dry_run(target, "PYTHON=/somewhere/python")
        assert "/somewhere/python -m" in commands
        assert "pip" not in commands
        assert ".venv" not in commands


def test_a_wheelhouse_replaces_the_package_index():
    installs = [
        line for line in dry_run("install", "WHEELHOUSE=wheels").splitlines() if "pip" in line
    ]
    assert len(installs) == 3
    assert all(f"--no-index --find-links {ROOT}/wheels" in line for line in installs)
    assert not any("--no-index" in line for line in dry_run("install").splitlines())


def test_named_files_exist():
    names = re.findall(r"\b(?:configs|pretrain|transfer|tests)/[\w./-]*\w", TEXT)
    names += re.findall(r"requirements[\w-]*\.txt|CITATION\.cff", TEXT)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_config_keys_exist():
    known = flatten(get_cfg()).keys() | flatten(default_config()).keys()
    names = re.findall(r"\b[A-Z]+(?:\.[A-Z_]+)+\b", TEXT)
    ignored = {"RESULTS.MD"}
    assert [name for name in names if name not in known and name not in ignored] == []
