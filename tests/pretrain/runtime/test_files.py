"""A file is either the old one or the complete new one."""

import json

import pytest
import torch

from pretrain.runtime import files


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "value.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_tensors_come_back_safely(tmp_path):
    files.write_torch(tmp_path / "deep" / "t.pth", {"x": torch.arange(3), "lr": 0.5})
    loaded = torch.load(tmp_path / "deep" / "t.pth", weights_only=True)
    assert loaded["x"].tolist() == [0, 1, 2]
    assert loaded["lr"] == 0.5


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea")
