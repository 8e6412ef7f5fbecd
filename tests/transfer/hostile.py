"""Malformed and hostile checkpoints, and the process in which the converter meets them.

``python -m tests.transfer.hostile FOLDER`` converts every file of FOLDER, within limits of memory
and time, and prints one JSON line each.
"""

import argparse
import codecs
import contextlib
import functools
import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from pretrain.encoder import build_encoder
from tests.transfer.layouts import under
from tests.transfer.memory import high_water

SECONDS = 20
GROWTH = 256 << 20  # bytes above what the process had before: files are a few hundred KB
CANARY = "canary"  # a folder that code in a file would make, in the process's working folder


class Calls:
    """Unpickled by an unsafe reader, it calls ``function(*arguments)``."""

    def __init__(self, function, *arguments, state=None, items=()):
        self.call = function, arguments, state, None
        self.items = items

    def __reduce__(self):
        return (*self.call, iter(self.items))


RUNS_CODE = Calls(os.mkdir, CANARY)


def small_trunk(arch="resnet50"):
    """Names and shapes of the real one, on disk a number per entry."""
    with torch.device("meta"):
        state = build_encoder(arch).state_dict()
    return {
        key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()
    }


def released(trunk):
    state = under("module.encoder.", trunk)
    state["module.self_attn.in_proj_weight"] = torch.zeros(3)
    return {"opt": argparse.Namespace(model="CLoVE"), "model": OrderedDict(state), "epoch": 200}


def zipped(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def legacy(value):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def valid_files():
    """Small files of every container that is read; the fuzzing starts from them too."""
    value = released(small_trunk())
    arrays = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "fc1000_w": np.zeros(3)}
    return {
        "zip": zipped(value),
        "legacy": legacy(value),
        "pkl": pickle.dumps(arrays, protocol=2),
        "zip_of_arrays": zipped({"model": arrays}),
    }


# ---------------------------------------------------------------------------------------------
# Code, and what never ends


def files_that_run_code():
    state = released(small_trunk())
    calls = {
        "mkdir": RUNS_CODE,
        "eval": Calls(eval, f"__import__('os').mkdir('{CANARY}')"),
        "exec": Calls(exec, f"import os; os.mkdir('{CANARY}')"),
        "getattr": Calls(getattr, "text", "upper"),
        "import": Calls(__import__, "antigravity"),
        "partial": Calls(functools.partial, os.mkdir, CANARY),
        "pickle_in_pickle": Calls(pickle.loads, pickle.dumps(RUNS_CODE)),
        "torch_load": Calls(torch.load, "other.pth"),
        "numpy_load": Calls(np.load, "other.npy", None, True),
        "decode": Calls(codecs.decode, b"x\x9c", "zlib_codec"),
        "print": Calls(print, "hello"),
        "open": Calls(open, CANARY, "w"),
    }
    for name, call in calls.items():
        yield f"zip_{name}", zipped(state | {"epoch": call})
        yield f"pkl_{name}", pickle.dumps({"conv1_w": np.zeros(3, np.float32), "x": call})
    yield "in_model", zipped(state | {"model": state["model"] | {"module.fc": RUNS_CODE}})
    yield "in_namespace", zipped(state | {"opt": argparse.Namespace(hook=RUNS_CODE)})
    yield "as_key", zipped({(RUNS_CODE, 1): 2})
    yield "in_array", zipped({"lr": np.array([RUNS_CODE], dtype=object)})
    yield "in_array_pkl", pickle.dumps({"lr": np.array([RUNS_CODE], dtype=object)})
    yield "legacy", legacy(state | {"epoch": RUNS_CODE})
    for protocol in range(6):
        yield f"protocol_{protocol}", pickle.dumps({"x": RUNS_CODE}, protocol=protocol)
    text = {
        "inst": b"(S'" + CANARY.encode() + b"'\nios\nmkdir\n.",
        "obj": b"(cos\nmkdir\nS'" + CANARY.encode() + b"'\no.",
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06canary\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pcanary\n.",
        "dotted": b"\x80\x04\x8c\x08argparse\x8c\x1cNamespace.__init__.__globals__\x93.",
    }
    yield from text.items()


def files_without_end():
    """A few bytes that claim, or would make, gigabytes."""
    yield "memo", b"\x80\x02}r\xff\xff\xff\x7f."
    yield "bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x."
    yield "text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."
    yield "frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}."
    yield "long", b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\x01."
    yield "deep", b"\x80\x02" + b"(" * 10_000 + b"]" * 10_000 + b"t" * 10_000 + b"."
    array = pickle.dumps({"conv1_w": np.zeros(4, np.float32)}, protocol=2)
    yield "array_without_data", array.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    yield "bytearray_of_protocol_5", b"\x80\x05\x96" + struct.pack("<Q", 60 << 30) + b"."
    itself = b"c_codecs\nencode\nq\x00(h\x00)}}tb"  # a state for what may be called
    yield "function_with_state", b"\x80\x02" + itself + b"X\1\0\0\0aX\6\0\0\0latin1\x86R."
    dicts, key = {b"a": 1}, (1,)
    for _ in range(60):
        dicts, key = {b"a": dicts, b"b": dicts}, (key, key)
    yield "shared_dicts", pickle.dumps(dicts, protocol=4)
    key = pickle.dumps(key, protocol=2)[2:-1]
    yield "shared_tuple_as_key", b"\x80\x02}" + key + b"K\x01s."
    yield (
        "shared_tuple_in_ordered_dict",
        (b"\x80\x02ccollections\nOrderedDict\n]" + key + b"K\x01\x86a\x85R."),
    )
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\n" + key + b"X\3\0\0\0cpuK\x01tQ"
    yield "shared_tuple_as_storage", zip_of_pickle(b"\x80\x02}X\1\0\0\0a" + storage + b"s.")
    state = (1, (100_000,), np.dtype(">f4"), False, bytes(400_000))
    empty = np.empty(0).__reduce__()[0], np.ndarray, (0,), b"b"
    yield "arrays_of_one_text", pickle.dumps([Calls(*empty, state=state) for _ in range(2000)])
    pairs = [(n, n) for n in range(20_000)]
    yield "dicts_of_one_list", pickle.dumps([Calls(OrderedDict, pairs) for _ in range(5000)])
    many = b"\x80\x02]X" + (1 << 16).to_bytes(4, "little") + b"x" * (1 << 16) + b"q\x00"
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86Ra"
    yield "encode", many + b"0" + encode * 200_000 + b"."
    yield "bytearray", pickle.dumps({"x": Calls(bytearray, 1 << 36)}, protocol=2)
    content = {"model": {"conv1.weight": torch.zeros(1)}}
    # One element of storage, two billion in the tensor, then in the storage.
    for name, old, new in (
        ("tensor", b"K\x00K\x01\x85", b"K\x00J\xff\xff\xff\x7f\x85"),
        ("storage", b"cpuq\x08K\x01", b"cpuq\x08J\xff\xff\xff\x7f"),
    ):
        data = legacy(content)
        yield f"{name}_legacy", replaced(data, old, new)
        with zipfile.ZipFile(io.BytesIO(zipped(content))) as archive:
            pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        yield f"{name}_zip", zip_of_pickle(replaced(pickled, old, new))


def zip_of_pickle(pickled):
    """A zip file with one tensor's bytes and ``pickled`` as its content."""
    sound = zipped({"a": torch.zeros(1)})
    return rezipped(
        sound, lambda n, c: [(n, pickled if n.endswith("data.pkl") else c, zipfile.ZIP_STORED)]
    )


def replaced(data, old, new):
    assert old in data
    return data.replace(old, new)


# ---------------------------------------------------------------------------------------------
# Damage


def truncated_files():
    for kind, data in valid_files().items():
        for share in (0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
            yield f"{kind}_{share}", data[: int(share * len(data))]
        yield f"{kind}_last", data[:-1]


def rezipped(data, change):
    """The members of a zip file, each as ``change(name, content)`` returns it."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(file, "w") as new,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # names that are written twice
        for name in old.namelist():
            for written, content, method in change(name, old.read(name)):
                new.writestr(written, content, compress_type=method)
    return file.getvalue()


def falsified(data, signature, offset, value, size=4):
    """Every header that begins with ``signature``, with ``value`` at ``offset``."""
    data = bytearray(data)
    place = data.find(signature)
    while place >= 0:
        data[place + offset : place + offset + size] = value.to_bytes(size, "little")
        place = data.find(signature, place + 4)
    return bytes(data)


def damaged_zips():
    data = zipped(released({key: value.clone() for key, value in tiny_trunk().items()}))
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED

    def drop(end):
        return lambda name, content: [] if name.endswith(end) else [(name, content, stored)]

    directory, local = b"PK\x01\x02", b"PK\x03\x04"
    yield "no_pickle", rezipped(data, drop("data.pkl"))
    yield "no_member", rezipped(data, drop("data/0"))
    yield "no_members", rezipped(data, lambda n, c: [(n, c, stored)] if "/data/" not in n else [])
    yield "compressed", rezipped(data, lambda name, content: [(name, content, deflated)])
    yield (
        "bomb",
        rezipped(
            data, lambda n, c: [(n, bytes(64 << 20) if n.endswith("data/0") else c, deflated)]
        ),
    )
    yield "twice", rezipped(data, lambda name, content: [(name, content, stored)] * 2)
    yield "two_pickles", rezipped(data, lambda n, c: [(n, c, stored), (f"b/{n}", c, stored)])
    yield "short_member", rezipped(data, lambda n, c: [(n, c[:2] if "/data/" in n else c, stored)])
    yield (
        "long_member",
        rezipped(data, lambda n, c: [(n, c + b"more" if "/data/" in n else c, stored)]),
    )
    yield (
        "empty_pickle",
        rezipped(data, lambda n, c: [(n, b"" if n.endswith("pkl") else c, stored)]),
    )
    for name, size in {"small": 1, "large": 1 << 20, "huge": 0xFFFFFFF0}.items():
        yield f"{name}_size", falsified(data, directory, 24, size)
        yield f"{name}_sizes", falsified(falsified(data, directory, 24, size), directory, 20, size)
    yield "offset", falsified(data, directory, 42, 0)
    yield "offset_outside", falsified(data, directory, 42, 1 << 30)
    yield "local_extra", falsified(data, local, 28, 0xFFF0, 2)
    yield "local_name", falsified(data, local, 26, 0xFFF0, 2)
    yield "encrypted", falsified(data, directory, 8, 1, 2)
    yield "zip_of_text", rezipped(data, lambda name, content: [(name, b"hello", stored)])


def tiny_trunk():
    return {"conv1.weight": torch.zeros(2, 3), "layer1.0.conv1.weight": torch.zeros(4)}


# ---------------------------------------------------------------------------------------------
# Whole files with the wrong content


def wrong_contents():
    trunk = small_trunk()
    base = under("module.encoder.", trunk) | {"module.self_attn.x": torch.zeros(1)}
    stem = "module.encoder.conv1.weight"
    last = "module.encoder.layer4.2.bn3.running_var"
    counter = "module.encoder.layer3.5.bn2.num_batches_tracked"

    def changed(key, value):
        return {"model": base | {key: value}}

    yield "empty", {}
    yield "no_state", {"epoch": 3}
    yield "nested", {"a": {"b": {"model": base}}}
    yield "number", 7
    yield "tensor", torch.zeros(3)
    yield "list", [base]
    yield "empty_model", {"model": {}}
    yield "integer_keys", {"model": {i: value for i, value in enumerate(base.values())}}
    yield "two_networks", {"first": base, "second": base}
    yield "module_twice", {"model": base | under("encoder.", trunk)}
    yield "other_prefix", {"model": under("net.", trunk)}
    yield "several_methods", {"state_dict": trunk}
    yield (
        "resnet18",
        {
            "model": under("module.encoder.", small_trunk("resnet18"))
            | {"module.self_attn.x": torch.zeros(1)}
        },
    )
    yield (
        "twice_in_detectron2",
        {
            "model": {"stem.conv1.weight": trunk["conv1.weight"]}
            | {"backbone.stem.conv1.weight": trunk["conv1.weight"]}
        },
    )
    for name, key in {"stem": stem, "last": last, "counter": counter}.items():
        yield f"without_{name}", {"model": {k: v for k, v in base.items() if k != key}}
        yield f"shape_of_{name}", changed(key, torch.zeros(5))
        yield f"text_as_{name}", changed(key, "weights")
        yield f"none_as_{name}", changed(key, None)
        yield f"list_as_{name}", changed(key, [1.0, 2.0])
    yield "without_layer4", {"model": {k: v for k, v in base.items() if "layer4" not in k}}
    yield "extra_block", changed("module.encoder.layer3.6.conv1.weight", torch.zeros(1))
    yield "nan", changed(stem, torch.full((64, 3, 7, 7), float("nan")))
    yield "infinite", changed(last, torch.full((2048,), float("inf")))
    yield "complex", changed(last, torch.zeros(2048, dtype=torch.complex64))
    yield "whole_numbers", changed(last, torch.zeros(2048, dtype=torch.int64))
    yield "truth_values", changed(last, torch.zeros(2048, dtype=torch.bool))
    yield "sparse", changed(last, torch.zeros(2048).to_sparse())
    yield "meta", changed(last, torch.zeros(2048, device="meta"))
    yield "array_of_text", changed(last, np.array(["a"] * 3))
    yield "scalar", changed(last, torch.tensor(1.0))
    methods = {"items": 1, "values": 1, "keys": 1, "get": 1}
    without = (base | {last: None}).items()
    yield "attributes", Calls(OrderedDict, state=methods, items=[("model", dict(without))])
    yield "attributes_of_model", {"model": Calls(OrderedDict, state=methods, items=without)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, says torch
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    yield "nested_tensor", changed(last, nested)
    yield "array_as_kind", {"kind": np.zeros(2), "format": np.zeros(2), "model": {"a": 1}}
    yield "long_format", {"kind": "clove_pretraining", "format": 10**5000, "model": base}
    yield "control_characters", {"\x1b[2J\ud800": {"a\x1b\ud800": torch.zeros(1)}}
    yield "long_names", {"a" * 100_000: {"b" * 100_000: torch.zeros(1)}}
    yield "newer_pretraining", {"format": 2, "kind": "clove_pretraining", "model": base}
    yield "converted", {"format": 1, "model": {}, "matching_heuristics": True, "meta": {}}


def write_all(folder):
    """About 190 files, whose names say what is wrong with them."""
    groups = {
        "code": files_that_run_code(),
        "endless": files_without_end(),
        "truncated": truncated_files(),
        "zip": damaged_zips(),
        "content": ((name, zipped(value)) for name, value in wrong_contents()),
    }
    for group, files in groups.items():
        for name, data in files:
            (Path(folder) / f"{group}_{name}.pth").write_bytes(data)


# ---------------------------------------------------------------------------------------------
# The process that reads them


def try_file(path, out):
    from transfer import convert
    from transfer.checkpoints import CheckpointError
    from transfer.reading import load_converted

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = high_water(), time.monotonic()
    signal.alarm(SECONDS)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = convert.main([str(path), str(out)])
    try:
        load_converted(path)
        as_weights = None
    except CheckpointError as error:
        as_weights = str(error)
    signal.alarm(0)
    return {
        "file": path.name,
        "code": code,
        "error": said.getvalue(),
        "as_weights": as_weights,
        "written": out.exists(),
        "seconds": time.monotonic() - started,
        "growth": high_water() - before,
    }


def main(folder):
    import transfer.convert  # noqa: F401  before the limit: its memory is not the files'

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 30),) * 2)
    for path in sorted(Path(folder).glob("*.pth")):
        print(json.dumps(try_file(path, Path(folder) / "out" / "out.pth")), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
