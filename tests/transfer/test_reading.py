import argparse
import io
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch

from transfer.checkpoints import CheckpointError
from transfer.reading import load_converted, read_checkpoint, read_run


class RunsCode:
    """Unpickled by an unsafe reader, it creates the file ``canary``."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


class Arbitrary:
    pass


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


# ---------------------------------------------------------------------------------------------
# Reading


def test_namespace_and_numpy_values_of_a_released_file_are_read(tmp_path):
    stored = {
        "opt": argparse.Namespace(crop=0.2, model="CLoVE", local_rank=0, resume=None),
        "optimizer": {"param_groups": [{"lr": np.float64(0.3), "steps": np.int64(7)}]},
        "flag": np.bool_(True),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "zero_dimensional": np.array(2.5),
        "epoch": 200,
    }
    loaded = read_checkpoint(save(tmp_path / "c.pth", stored), method="clove")
    assert loaded["opt"] == stored["opt"]
    group = loaded["optimizer"]["param_groups"][0]
    assert group == {"lr": 0.3, "steps": 7}
    assert type(group["lr"]) is float
    assert type(group["steps"]) is int
    assert loaded["flag"] is True
    np.testing.assert_array_equal(loaded["array"], stored["array"])
    assert loaded["zero_dimensional"] == 2.5
    assert loaded["epoch"] == 200


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numpy_scalars_are_read_under_the_names_of_numpy_1_and_2(tmp_path, core):
    path = save(tmp_path / "c.pth", {"lr": np.float64(0.125)})
    renamed = tmp_path / "renamed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renamed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            written = f"{np.float64(0).__reduce__()[0].__module__}".encode()
            assert not name.endswith("data.pkl") or written in data
            new.writestr(name, data.replace(written, f"{core}.multiarray".encode()))
    assert read_checkpoint(renamed, "clove") == {"lr": 0.125}


def test_files_from_before_the_zip_format_are_read(tmp_path):
    path = tmp_path / "old.pth"
    weights = {"conv1.weight": torch.arange(4.0)}
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path)["conv1.weight"], weights["conv1.weight"])


def test_a_namespace_is_refused_by_a_method_whose_row_does_not_allow_it(tmp_path):
    path = save(tmp_path / "c.pth", {"opt": argparse.Namespace(a=1)})
    with pytest.raises(CheckpointError, match=r"c\.pth: holds argparse\.Namespace.*supervised"):
        read_checkpoint(path, method="supervised")


def test_the_allow_list_is_gone_after_reading(tmp_path):
    before = torch.serialization.get_safe_globals()
    read_checkpoint(save(tmp_path / "c.pth", {"opt": argparse.Namespace(a=1)}))
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize("wrap", ["torch", "torch_old", "pickle", "inside_opt", "numpy_object"])
def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path, wrap):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    payload = {"model": {"conv1.weight": torch.zeros(1)}, "epoch": RunsCode(canary)}
    if wrap == "torch":
        torch.save(payload, path)
    elif wrap == "torch_old":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    elif wrap == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    elif wrap == "inside_opt":
        torch.save({"opt": argparse.Namespace(hook=RunsCode(canary))}, path)
    else:
        torch.save({"lr": np.array([RunsCode(canary)], dtype=object)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        load_converted(path)
    assert not canary.exists()


def test_the_canary_does_appear_when_read_unsafely(tmp_path):
    canary = tmp_path / "canary"
    pickle.load(io.BytesIO(pickle.dumps(RunsCode(canary))))
    assert canary.exists()


def test_numpy_types_other_than_numbers_are_refused(tmp_path):
    path = save(tmp_path / "c.pth", {"name": np.array(["a", "b"])})
    with pytest.raises(CheckpointError, match="not a plain number"):
        read_checkpoint(path)


def test_a_foreign_class_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Arbitrary, "__module__", "elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", argparse.Namespace(Arbitrary=Arbitrary))
    path = save(tmp_path / "c.pth", {"x": Arbitrary()})
    with pytest.raises(CheckpointError, match=r"holds elsewhere\.Arbitrary.*nothing was executed"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, share):
    path = save(tmp_path / "cut.pth", {"model": {"a": torch.zeros(1000), "b": torch.ones(1000)}})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(
        CheckpointError, match=r"cut\.pth: not a complete, plain PyTorch checkpoint"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete"),
        (b"hello", "not a complete"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a complete"),
        (pickle.dumps({"a": 1})[:-1], "not a complete"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth: {message}"):
        read_checkpoint(path)


def test_missing_files_folders_lists_and_methods_are_errors_that_name_them(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"list\.pth: holds list"):
        read_checkpoint(save(tmp_path / "list.pth", [1, 2]))
    with pytest.raises(CheckpointError, match="'closve' is not one of auto, clove"):
        read_checkpoint(save(tmp_path / "c.pth", {}), method="closve")


# ---------------------------------------------------------------------------------------------
# Run folders


def test_a_run_folder_gives_its_newest_checkpoint(tmp_path):
    for step in (5, 1000000005, 70):  # more digits than the padding, too
        save(tmp_path / f"checkpoints/step_{step:08d}.pth", {"step": step})
    save(tmp_path / "checkpoints/other.pth", {"step": -1})
    path, loaded = read_run(tmp_path)
    assert (path.name, loaded["step"]) == ("step_1000000005.pth", 1000000005)


def test_a_broken_newest_checkpoint_is_warned_about_and_the_one_before_is_taken(tmp_path, caplog):
    save(tmp_path / "checkpoints/step_00000005.pth", {"step": 5})
    newer = save(tmp_path / "checkpoints/step_00000010.pth", {"step": 10})
    newer.write_bytes(newer.read_bytes()[:300])
    path, loaded = read_run(tmp_path)
    assert (path.name, loaded["step"]) == ("step_00000005.pth", 5)
    assert "step_00000010.pth: not a complete" in caplog.text


def test_a_folder_without_a_checkpoint_that_loads_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoints/step_\*\.pth in it"):
        read_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step_00000001.pth").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints loads"):
        read_run(tmp_path)


# ---------------------------------------------------------------------------------------------
# Converted files


def converted(**changes):
    return {"format": 1, "model": {}, "matching_heuristics": True, "meta": {}} | changes


def test_a_converted_file_is_read(tmp_path):
    path = save(tmp_path / "backbone.pth", converted(meta={"method": "clove"}))
    assert load_converted(path)["meta"] == {"method": "clove"}


def test_a_newer_format_is_an_error(tmp_path):
    path = save(tmp_path / "backbone.pth", converted(format=2))
    with pytest.raises(CheckpointError, match="format 2 of converted weights, this version reads"):
        load_converted(path)


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("run/checkpoints/step_00000005.pth", "run/backbone.pth"),
        ("moco v2.pth.tar", "moco v2_d2.pth"),
    ],
)
def test_an_unconverted_file_gives_the_command_to_run(tmp_path, name, out):
    raw = {"model": {"module.encoder.conv1.weight": torch.zeros(1)}, "opt": argparse.Namespace()}
    path = save(tmp_path / name, raw)
    with pytest.raises(CheckpointError) as caught:
        load_converted(path)
    quoted = [f"'{tmp_path / x}'" if " " in x else str(tmp_path / x) for x in (name, out)]
    assert str(caught.value).endswith(f"Run: python -m transfer.convert {' '.join(quoted)}")


def test_a_run_folder_as_weights_gives_the_command_to_run(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_converted(tmp_path)
    assert f"python -m transfer.convert {tmp_path} {tmp_path}/backbone.pth" in str(caught.value)
