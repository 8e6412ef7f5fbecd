"""Every method's files, from the key lists and contents that peer_checkpoints.md section 1 gives.

Each function takes a trunk under torchvision's names and returns what the method's code saves. All
that is not to be transferred is made of sevens.
"""

import argparse
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from tests.transfer.layouts import own, released, under
from transfer.names import to_detectron2

SEVEN = torch.tensor(7.0)


def sevens(prefix, trunk):
    """The same network with other weights; on disk a single number."""
    return under(prefix, {key: SEVEN.expand(value.shape) for key, value in trunk.items()})


def head(*names):
    return {name: SEVEN.expand(2, 3) for name in names}


def mlp(prefix, *layers):
    return head(*(f"{prefix}.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")))


def module(state):
    return OrderedDict((f"module.{key}", value) for key, value in state.items())


def sgd(lr):
    group = {"lr": lr, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-4, "nesterov": False}
    momentum = {"momentum_buffer": torch.zeros(3)}
    return {"state": {0: momentum}, "param_groups": [group | {"params": [0]}]}


def pixpro(trunk):
    state = under("encoder.", trunk) | sevens("encoder_k.", trunk)
    for name in ("projector", "projector_k", "projector_instance", "predictor"):
        state |= mlp(name, "linear1", "bn1", "linear2")
    state |= head("value_transform.weight", "value_transform.bias")
    warm_up = {"multiplier": 100.0, "finished": False, "base_lrs": [4.0], "last_epoch": 9}
    return {
        "opt": argparse.Namespace(data_dir="./data", arch="resnet50", model="PixPro", rank=0),
        "model": module(state),
        "optimizer": sgd(np.float64(4.0)),
        "scheduler": warm_up | {"after_scheduler": {"T_max": 100, "eta_min": 1e-6}},
        "epoch": 400,
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 12}},
    }


def pixpro_published(trunk):
    return {"model": pixpro(trunk)["model"]}


def moco(trunk, fc):
    state = under("encoder_q.", trunk) | sevens("encoder_k.", trunk)
    state |= mlp("encoder_q.fc", *fc) if fc else head("encoder_q.fc.weight", "encoder_q.fc.bias")
    state |= mlp("encoder_k.fc", *fc) if fc else head("encoder_k.fc.weight", "encoder_k.fc.bias")
    state |= {"queue": SEVEN.expand(128, 65536), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    saved = {"epoch": 200, "arch": "resnet50", "state_dict": module(state), "optimizer": sgd(0.03)}
    return saved


def moco_v1(trunk):
    return moco(trunk, ())


def moco_v2(trunk):
    return moco(trunk, (0, 2))


RESIM_FPN = ("fpn_lateral5", "fpn_lateral4", "fpn_output4", "fpn_lateral3", "fpn_output3")


def resim(trunk):
    saved = moco_v2(trunk)
    saved["state_dict"] |= module(mlp("encoder_q", *RESIM_FPN) | mlp("encoder_k", *RESIM_FPN))
    return saved


def resim_backbone(trunk):
    model = {to_detectron2(key): value.numpy() for key, value in trunk.items()}
    others = mlp("stem.fc", 0, 2) | mlp("backbone", *RESIM_FPN)
    model |= {key: value.numpy() for key, value in others.items()}
    return {"model": model, "__author__": "MOCO", "matching_heuristics": True}


def densecl(trunk):
    return {"state_dict": OrderedDict(trunk), "author": "DenseCL"}


def densecl_training(trunk):
    state = under("encoder_q.0.", trunk) | sevens("encoder_k.0.", trunk)
    for side in ("encoder_q.1", "encoder_k.1"):
        state |= mlp(side, "mlp.0", "mlp.2", "mlp2.0", "mlp2.2")
    state |= under("backbone.", trunk)
    for queue in ("queue", "queue2"):
        state |= {queue: SEVEN.expand(128, 65536), f"{queue}_ptr": torch.zeros(1)}
    meta = {"mmcv_version": "1.0.3", "time": "Mon Nov  2 2020", "epoch": 200, "iter": 1000}
    return {"meta": meta, "state_dict": OrderedDict(state), "optimizer": sgd(0.3)}


def detco(trunk):
    return {"state_dict": OrderedDict(trunk | head("fc.weight", "fc.bias"))}


def slotcon(trunk):
    state = sevens("encoder_q.", trunk) | under("encoder_k.", trunk)
    for name in ("projector_q.mlp", "projector_k.mlp", "predictor_slot.mlp"):
        state |= mlp(name, 0, 1, 3, 4, 6)
    state |= head("center", "grouping_q.slot_embed.weight", "grouping_k.slot_embed.weight")
    return {
        "args": argparse.Namespace(arch="resnet50", dim_out=256, batch_size=64),
        "model": module(state),
        "optimizer": sgd(0.1),
        "scheduler": {"last_epoch": 10},
        "epoch": 200,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 12},
    }


def slotcon_backbone(trunk):
    return {"state_dict": OrderedDict(trunk)}


def bare(trunk):
    return OrderedDict(trunk)


def vicregl(trunk):
    state = under("backbone.", trunk) | mlp("classifier", "")
    state = {key.replace("..", "."): value for key, value in state.items()}
    state |= mlp("maps_projector", 0, 1, 3, 4, 6) | mlp("projector", 0, 1, 3, 4, 6)
    keep = sys.modules["optimizers"].exclude_bias_and_norm
    optimizer = sgd(np.float64(0.2))
    optimizer["param_groups"][0] |= {"weight_decay_filter": keep, "lars_adaptation_filter": keep}
    return {"epoch": 300, "model": module(state), "optimizer": optimizer}


def setsim(trunk):
    state = under("encoder_q.0.", trunk) | sevens("encoder_k.0.", trunk)
    for side in ("encoder_q", "encoder_k"):
        state |= mlp(f"{side}.0.fc", 0, 2) | mlp(f"{side}.1", 0, 2)
    saved = {"epoch": 200, "arch": "resnet50", "state_dict": module(state), "optimizer": sgd(0.03)}
    return saved


def swav(trunk):
    return module(trunk | mlp("projection_head", 0, 1, 3) | head("prototypes.weight"))


def swav_training(trunk):
    return {"epoch": 200, "state_dict": swav(trunk), "optimizer": sgd(np.float64(4.8))}


def dino(trunk):
    dino_head = mlp("head.mlp", 0, 2, 4) | head(
        "head.last_layer.weight_g", "head.last_layer.weight_v"
    )
    return {
        "student": module(sevens("backbone.", trunk) | dino_head),
        "teacher": module(under("backbone.", trunk) | dino_head),
        "optimizer": sgd(np.float64(0.03)),
        "epoch": 800,
        "args": argparse.Namespace(arch="resnet50", out_dim=60000, global_crops_scale=(0.14, 1.0)),
        "dino_loss": OrderedDict(center=torch.zeros(1, 5)),
        "fp16_scaler": {"scale": 65536.0},
    }


def soco(trunk):
    state = under("encoder.", trunk) | sevens("encoder_k.", trunk)
    for name in ("projector", "projector_k", "predictor"):
        state |= mlp(name, "linear1", "bn1", "linear2")
    for side in ("", "_k"):
        state |= mlp(f"neck{side}", "lateral_convs.0.conv", "fpn_convs.0.conv")
        state |= mlp(f"head{side}", "fc1", "fc2")
    return {"opt": argparse.Namespace(model="SoCo_FPN"), "model": module(state), "epoch": 400}


def soco_c4(trunk):
    state = under("encoder.", trunk) | sevens("encoder_k.", trunk)
    for name in ("projector", "projector_k", "predictor"):
        state |= mlp(name, "linear1", "bn1", "linear2")
    state |= {"queue": SEVEN.expand(128, 65536), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"opt": argparse.Namespace(model="SoCo_C4"), "model": module(state), "epoch": 100}


def supervised(trunk):
    return OrderedDict(trunk | head("fc.weight", "fc.bias"))


def caffe2_name(name):
    """torchvision's name -> Caffe2's, the other way round than the converter."""
    blocks = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    blocks |= {f"bn{k}": f"branch2{'abc'[k - 1]}_bn" for k in (1, 2, 3)}
    blocks |= {"downsample.0": "branch1", "downsample.1": "branch1_bn"}
    *place, end = name.split(".")
    if len(place) == 1:
        start = {"conv1": "conv1", "bn1": "res_conv1_bn"}[place[0]]
    else:
        start = f"res{int(place[0][-1]) + 1}_{place[1]}_{blocks['.'.join(place[2:])]}"
    ends = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    return f"{start}_{ends[end] if start.endswith('bn') else 'w'}"


def msra(trunk):
    trunk = {key: value for key, value in trunk.items() if "num_batches_tracked" not in key}
    arrays = {caffe2_name(key): value.numpy() for key, value in trunk.items()}
    arrays |= {f"{key}_momentum": np.zeros(2, np.float32) for key in list(arrays)}
    others = ("fc1000_w", "fc1000_b", "conv1_b")
    return arrays | {key: np.zeros((2, 3), np.float32) for key in others}


def msra_blobs(trunk):
    return {"blobs": msra(trunk)}


def by_another_converter(trunk):
    """What the released converters of CLoVE, PixPro, MoCo, SlotCon and others pickle."""
    model = {to_detectron2(key): value.numpy() for key, value in trunk.items()}
    return {"model": model, "__author__": "PixPro", "matching_heuristics": True}


def fpn_named(trunk):
    names = {key: f"backbone.bottom_up.{to_detectron2(key)}" for key in trunk}
    model = {names[key]: value for key, value in trunk.items()}
    return {"model": model | head("backbone.fpn_lateral2.weight", "roi_heads.box_head.fc1.weight")}


def c4_named(trunk):
    model = {}
    for key, value in trunk.items():
        name = to_detectron2(key)
        model[("roi_heads." if name.startswith("res5") else "backbone.") + name] = value
    return {"model": model | head("roi_heads.res5.norm.weight")}


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, in which the model zoo's files were pickled."""

    def save_string(self, value):
        data = value.encode("ascii") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def write_python2(value, path):
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(value)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core", b"cnumpy.core"))


def write_pickle(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


def write_pickle_0(value, path):
    path.write_bytes(pickle.dumps(value, protocol=0))


def write_pickle_5(value, path):
    path.write_bytes(pickle.dumps(value, protocol=5))


def write_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


# method, layout: (file name, what is in it, how it is written, whether auto knows whose it is)
FILES = {
    ("clove", "checkpoint of python -m pretrain"): ("step.pth", own, torch.save, True),
    ("clove", "released file"): ("ckpt_epoch_200.pth", released, torch.save, True),
    ("pixpro", "training or published file"): ("ckpt_epoch_400.pth", pixpro, write_legacy, True),
    ("pixpro", "published"): ("pixpro_base.pth", pixpro_published, torch.save, True),
    ("moco", "v1 file"): ("moco_v1.pth.tar", moco_v1, write_legacy, True),
    ("moco", "v2, or ReSim-C4 training, file"): ("moco_v2.pth.tar", moco_v2, write_legacy, True),
    ("resim", "training file"): ("resim_fpn.pth.tar", resim, torch.save, True),
    ("resim", "C4 training file"): ("resim_c4.pth.tar", moco_v2, torch.save, False),
    ("resim", 'numpy "Detectron backbone" file'): (
        *("resim_fpn_backbone.pth.tar", resim_backbone, torch.save, True),
    ),
    ("resim", "numpy, before the zip format"): ("r.pth.tar", resim_backbone, write_legacy, True),
    ("densecl", "released file"): ("densecl_r50.pth", densecl, write_legacy, True),
    ("densecl", "training file (mmcv)"): ("epoch_200.pth", densecl_training, torch.save, True),
    ("detco", "released file"): ("detco_200ep.pth", detco, torch.save, False),
    ("slotcon", "full file"): ("ckpt_epoch_200.pth", slotcon, torch.save, True),
    ("slotcon", '"backbone only" file'): ("backbone.pth", slotcon_backbone, torch.save, False),
    ("slotcon", "bare"): ("backbone.pth", bare, torch.save, False),
    ("vicregl", "backbone file"): ("resnet50_alpha0.9.pth", bare, torch.save, False),
    ("vicregl", "full file"): ("resnet50_fullckpt.pth", vicregl, torch.save, True),
    ("setsim", "training file"): ("checkpoint_0199.pth.tar", setsim, torch.save, True),
    ("swav", "released file"): ("swav_800ep_pretrain.pth.tar", swav, write_legacy, True),
    ("swav", "training file"): ("ckp-199.pth", swav_training, write_legacy, True),
    ("dino", "backbone file"): ("dino_resnet50_pretrain.pth", bare, torch.save, False),
    ("dino", "full file"): ("dino_full_checkpoint.pth", dino, torch.save, True),
    ("soco", "training file"): ("ckpt_epoch_400.pth", soco, torch.save, True),
    ("soco", "C4 training file"): ("ckpt_epoch_100.pth", soco_c4, torch.save, True),
    ("supervised", "torchvision's weights"): ("resnet50.pth", supervised, torch.save, True),
    ("supervised_msra", "R-50.pkl, R-101.pkl of Detectron2's model zoo"): (
        *("R-50.pkl", msra, write_python2, True),
    ),
    ("supervised_msra", "by Python 3"): ("R-50.pkl", msra, write_pickle, True),
    ("supervised_msra", "in protocol 0"): ("R-50.pkl", msra, write_pickle_0, True),
    ("supervised_msra", "as a detector's"): ("R-50.pkl", msra_blobs, write_python2, True),
    ("moco", "in Detectron2's names"): ("d2.pkl", by_another_converter, write_pickle, False),
    ("pixpro", "in Detectron2's names, protocol 5"): (
        *("d2.pkl", by_another_converter, write_pickle_5, False),
    ),
    ("pixpro", "in an FPN model's names"): ("model_final.pth", fpn_named, torch.save, False),
    ("clove", "in a C4 model's names"): ("model_final.pth", c4_named, torch.save, False),
}


def write(method, layout, trunk, folder):
    """The path of the file, written as the method's code does."""
    name, build, save, _ = FILES[method, layout]
    path = Path(folder) / name
    optimizers = types.ModuleType(
        "optimizers"
    )  # VICRegL's, of which its full files name a function

    def exclude_bias_and_norm(p):
        return p.ndim == 1

    exclude_bias_and_norm.__module__ = "optimizers"
    exclude_bias_and_norm.__qualname__ = "exclude_bias_and_norm"
    optimizers.exclude_bias_and_norm = exclude_bias_and_norm
    sys.modules["optimizers"] = optimizers
    try:
        save(build(trunk), path)
    finally:
        del sys.modules["optimizers"]
    return path
