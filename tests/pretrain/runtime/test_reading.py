import argparse
import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pretrain.runtime.reading import IN_CLOVE, CheckpointError, read, read_newest, shown


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def protocol(number):
    return lambda value, path: path.write_bytes(pickle.dumps(value, protocol=number))


def test_numpy_values_of_a_released_file_are_read_and_its_options_are_inert(tmp_path):
    stored = {
        "opt": argparse.Namespace(crop=0.2, model="CLoVE", local_rank=0, resume=None),
        "optimizer": {"param_groups": [{"lr": np.float64(0.3), "steps": np.int64(7)}]},
        "flag": np.bool_(True),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "epoch": 200,
    }
    loaded = read(save(tmp_path / "c.pth", stored), IN_CLOVE)
    assert not vars(loaded.pop("opt"))
    group = loaded["optimizer"]["param_groups"][0]
    assert (type(group["lr"]), type(group["steps"])) == (float, int)
    assert group == {"lr": 0.3, "steps": 7}
    assert loaded["flag"] is True
    np.testing.assert_array_equal(loaded["array"], stored["array"])
    assert loaded["epoch"] == 200


@pytest.mark.parametrize("write", [protocol(n) for n in (0, 2, 4, 5)])
@pytest.mark.parametrize("kind", [">f4", "<f8", "<i8", "|u1"])
def test_bare_pickles_of_arrays_are_read(tmp_path, write, kind):
    arrays = {"conv1_w": np.arange(6).astype(kind).reshape(2, 3), "scalar": np.float32(2)}
    write({"blobs": arrays}, tmp_path / "R-50.pkl")
    loaded = read(tmp_path / "R-50.pkl")["blobs"]
    np.testing.assert_array_equal(loaded["conv1_w"], arrays["conv1_w"])
    assert loaded["scalar"] == 2


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numpy_scalars_are_read_under_the_names_of_numpy_1_and_2(tmp_path, core):
    path, renamed = save(tmp_path / "c.pth", {"lr": np.float64(0.125)}), tmp_path / "renamed.pth"
    written = f"{np.float64(0).__reduce__()[0].__module__}".encode()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renamed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(written, f"{core}.multiarray".encode()))
    assert read(renamed) == {"lr": 0.125}


def test_older_torch_files_and_safetensors_are_read(tmp_path):
    weights = {"conv1.weight": torch.arange(4.0)}
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "model.safetensors")
    save_file(weights, tmp_path / "another.bin")
    for name in ("old.pth", "model.safetensors", "another.bin"):
        assert torch.equal(read(tmp_path / name)["conv1.weight"], weights["conv1.weight"])


def test_a_class_is_refused_unless_the_caller_allows_it_and_the_list_is_gone_afterwards(tmp_path):
    before = torch.serialization.get_safe_globals()
    path = save(tmp_path / "c.pth", {"opt": argparse.Namespace(a=1)})
    read(path, IN_CLOVE)
    with pytest.raises(CheckpointError, match=r"c\.pth: holds argparse\.Namespace.*nothing was ex"):
        read(path)
    assert torch.serialization.get_safe_globals() == before


def test_what_is_no_checkpoint_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pth: cannot be read \(No such file"):
        read(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="Is a directory"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match=r"list\.pth: holds list"):
        read(save(tmp_path / "list.pth", [1, 2]))
    with pytest.raises(CheckpointError, match="not a plain number"):
        read(save(tmp_path / "c.pth", {"name": np.array(["a", "b"])}))
    (tmp_path / "x.safetensors").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: it is text \(hello\)"):
        read(tmp_path / "x.safetensors")


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><title>Sign in</title>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git-LFS pointer"),
        (gzip.compress(b"x"), "it is compressed"),
        (bytes(257) + b"ustar\x0000", "it is a tar archive"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b"\x93NUMPY\1\0", "it is one array of numpy"),
        (b'{"weight_map": {}}', "it is JSON"),
        (b"\x08\x07\x12\x07pytorch", "it is an ONNX file"),
        (zipped("conv1.npy"), "it is a zip archive"),
        (zipped("m/data.pkl", "m/constants.pkl"), "it is a program of TorchScript"),
    ],
)
def test_what_lies_in_a_checkpoints_place_is_named(tmp_path, content, said):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth: {said}.*: "):
        read(tmp_path / "x.pth")


def test_names_from_a_file_are_shown_short_and_without_control_characters():
    assert shown("a\x1b[2J\ud800" + "b" * 1000) == "a?[2J?" + "b" * 74
    assert shown(10**5000) == "a int"


def test_a_run_folder_gives_its_newest_checkpoint_that_loads(tmp_path, caplog):
    with pytest.raises(CheckpointError, match=r"no checkpoints/step_\*\.pth in it"):
        read_newest(tmp_path)
    for step in (5, 1000000005, 70):  # more digits than the padding, too
        save(tmp_path / f"checkpoints/step_{step:08d}.pth", {"step": step})
    save(tmp_path / "checkpoints/other.pth", {"step": -1})
    path, loaded = read_newest(tmp_path)
    assert (path.name, loaded["step"]) == ("step_1000000005.pth", 1000000005)
    path.write_bytes(path.read_bytes()[:300])
    assert read_newest(tmp_path)[1] == {"step": 70}
    assert "step_1000000005.pth: not a complete" in caplog.text
    for each in (tmp_path / "checkpoints").glob("step*"):
        each.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="none of its 3 checkpoints loads"):
        read_newest(tmp_path)
