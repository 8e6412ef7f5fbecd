"""Malformed and hostile checkpoints, which the converter meets and the fuzzing starts from."""

import argparse
import functools
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import torch

from tests.transfer.convert.layouts import small_trunk, under

CANARY = "canary"  # a folder that code in a file would make, in the process's working folder


class Calls:
    """Unpickled by an unsafe reader, it calls ``function(*arguments)``."""

    def __init__(self, function, *arguments, state=None, items=()):
        self.call = function, arguments, state, None
        self.items = items

    def __reduce__(self):
        return (*self.call, iter(self.items))


RUNS_CODE = Calls(os.mkdir, CANARY)


def released(trunk):
    state = under("module.encoder.", trunk) | {"module.self_attn.x": torch.zeros(1)}
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
    """Small files of every container that is read."""
    value = released(small_trunk())
    arrays = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "fc1000_w": np.zeros(3)}
    return {
        "zip": zipped(value),
        "legacy": legacy(value),
        "pkl": pickle.dumps(arrays, protocol=2),
        "zip_of_arrays": zipped({"model": arrays}),
    }


def files_that_run_code():
    state = released(small_trunk())
    calls = {
        "mkdir": RUNS_CODE,
        "eval": Calls(eval, f"__import__('os').mkdir('{CANARY}')"),
        "exec": Calls(exec, f"import os; os.mkdir('{CANARY}')"),
        "partial": Calls(functools.partial, os.mkdir, CANARY),
        "pickle_in_pickle": Calls(pickle.loads, pickle.dumps(RUNS_CODE)),
        "torch_load": Calls(torch.load, "other.pth"),
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
    yield "inst", b"(S'" + CANARY.encode() + b"'\nios\nmkdir\n."
    yield "obj", b"(cos\nmkdir\nS'" + CANARY.encode() + b"'\no."
    yield "stack_global", b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06canary\x85R."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent", b"Pcanary\n."
    yield "dotted", b"\x80\x04\x8c\x08argparse\x8c\x1cNamespace.__init__.__globals__\x93."


def files_that_claim_gigabytes():
    yield "memo", b"\x80\x02}r\xff\xff\xff\x7f."
    yield "bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x."
    yield "text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."
    yield "deep", b"\x80\x02" + b"(" * 10_000 + b"]" * 10_000 + b"t" * 10_000 + b"."
    array = pickle.dumps({"conv1_w": np.zeros(4, np.float32)}, protocol=2)
    yield "array", array.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    # One element of storage, two billion in the tensor, then in the storage
    data = legacy({"model": {"conv1.weight": torch.zeros(1)}})
    yield "tensor", data.replace(b"K\x00K\x01\x85", b"K\x00J\xff\xff\xff\x7f\x85")
    yield "storage", data.replace(b"cpuq\x08K\x01", b"cpuq\x08J\xff\xff\xff\x7f")


def rezipped(data, change):
    """The members of a zip file, each as ``change(name, content)`` returns it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            for written, content, method in change(name, old.read(name)):
                new.writestr(written, content, compress_type=method)
    return file.getvalue()


def damaged_files():
    for kind, data in valid_files().items():
        for share in (0.0, 0.01, 0.3, 0.9, 0.9999):
            yield f"{kind}_{share}", data[: int(share * len(data))]
        yield f"{kind}_last", data[:-1]
    data = zipped(released(small_trunk()))
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED

    def drop(end):
        return lambda name, content: [] if name.endswith(end) else [(name, content, stored)]

    def empty(name, content):
        return [(name, b"" if name.endswith("pkl") else content, stored)]

    yield "no_pickle", rezipped(data, drop("data.pkl"))
    yield "no_member", rezipped(data, drop("data/0"))
    yield "empty_pickle", rezipped(data, empty)
    yield "compressed", rezipped(data, lambda name, content: [(name, content, deflated)])
    yield "zip_of_text", rezipped(data, lambda name, content: [(name, b"hello", stored)])
    yield "text", b"hello"
    yield "picture", b"\x89PNG\r\n\x1a\n" + bytes(100)


def wrong_contents():
    trunk = small_trunk()
    base = under("module.encoder.", trunk) | {"module.self_attn.x": torch.zeros(1)}
    stem, last = "module.encoder.conv1.weight", "module.encoder.layer4.2.bn3.running_var"
    counter = "module.encoder.layer3.5.bn2.num_batches_tracked"
    yield "empty", {}
    yield "no_state", {"epoch": 3}
    yield "nested", {"a": {"b": {"model": base}}}
    yield "number", 7
    yield "tensor", torch.zeros(3)
    yield "list", [base]
    yield "integer_keys", {"model": dict(enumerate(base.values()))}
    yield "two_networks", {"first": base, "second": base}
    yield "several_methods", {"state_dict": trunk}
    for name, key in {"stem": stem, "last": last, "counter": counter}.items():
        yield f"without_{name}", {"model": {k: v for k, v in base.items() if k != key}}
        for kind, value in {"shape": torch.zeros(5), "text": "weights", "list": [1.0, 2.0]}.items():
            yield f"{kind}_as_{name}", {"model": base | {key: value}}
    for arch in ("resnet18", "resnet34"):
        small = under("encoder.", small_trunk(arch))
        last, third = "encoder.layer4.1.bn2.running_var", "encoder.layer1.0.conv3.weight"
        yield f"{arch}_lacking", {"model": {k: v for k, v in small.items() if k != last}}
        yield f"{arch}_misshaped", {"model": small | {last: torch.zeros(2048)}}
        yield f"{arch}_with_bottleneck", {"model": small | {third: torch.zeros(256, 64, 1, 1)}}
    values = {
        "infinite": torch.full((2048,), float("inf")),
        "complex": torch.zeros(2048, dtype=torch.complex64),
        "meta": torch.zeros(2048, device="meta"),
        "array_of_text": np.array(["a"] * 3),
    }
    for name, value in values.items():
        yield name, {"model": base | {last: value}}
    methods = {"items": 1, "values": 1, "keys": 1, "get": 1}  # of the dictionary, overwritten
    without = (base | {last: None}).items()
    yield "attributes", Calls(OrderedDict, state=methods, items=[("model", dict(without))])
    yield "attributes_of_model", {"model": Calls(OrderedDict, state=methods, items=without)}
    yield "array_as_kind", {"kind": np.zeros(2), "format": np.zeros(2), "model": {"a": 1}}
    yield "long_format", {"kind": "pretraining", "format": 10**5000, "model": base}
    yield "control_characters", {"\x1b[2J\ud800": {"a\x1b\ud800": torch.zeros(1)}}
    yield "long_names", {"a" * 100_000: {"b" * 100_000: torch.zeros(1)}}
    yield "converted", {"format": 1, "model": {}, "matching_heuristics": True, "meta": {}}


def write_all(folder):
    """About 140 files, whose names say what is wrong with them."""
    groups = {
        "code": files_that_run_code(),
        "claims": files_that_claim_gigabytes(),
        "damaged": damaged_files(),
        "content": ((name, zipped(value)) for name, value in wrong_contents()),
    }
    for group, files in groups.items():
        for name, data in files:
            (folder / f"{group}_{name}.pth").write_bytes(data)
