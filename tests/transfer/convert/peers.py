"""Every method's files, from the key lists and contents of the code that writes or reads them.

Each builder takes a trunk under torchvision's names and returns what the method's code saves. All
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

from tests.transfer.convert.layouts import own, released, under
from transfer.convert.names import to_detectron2

SEVEN = torch.tensor(7.0)
RESIM_FPN = ("fpn_lateral5", "fpn_lateral4", "fpn_output4", "fpn_lateral3", "fpn_output3")


def heads(*names):
    return {f"{name}.weight": SEVEN.expand(2, 3) for name in names}


def wrapped(trunk, prefix, other, *names):
    """In DistributedDataParallel: the backbone, the same network with other weights, and heads."""
    sevens = {key: SEVEN.expand(value.shape) for key, value in trunk.items()}
    state = under(prefix, trunk) | (under(other, sevens) if other else {}) | heads(*names)
    return OrderedDict(under("module.", state))


def training(key, state, lr=0.03, **more):
    """A training file: beside the model an optimizer, which may hold a number of numpy's."""
    group = {"lr": lr, "momentum": 0.9, "nesterov": False, "params": [0]}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [group]}
    return {key: state, "optimizer": optimizer, "epoch": 200} | more


OPTIONS = argparse.Namespace(arch="resnet50", data_dir="./data", crop=(0.14, 1.0))


def pixpro(trunk):
    names = ("projector.linear1", "projector_k.linear1", "projector_instance.bn1")
    names += ("predictor.linear1", "value_transform")
    state = wrapped(trunk, "encoder.", "encoder_k.", *names)
    return training("model", state, np.float64(4.0), opt=OPTIONS, amp={"loss_scale": 65536.0})


def moco(trunk, *names):
    state = wrapped(trunk, "encoder_q.", "encoder_k.", *names)
    queue = {"module.queue": SEVEN.expand(128, 65536), "module.queue_ptr": torch.zeros(1)}
    return training("state_dict", state | queue, arch="resnet50")


def moco_v1(trunk):
    return moco(trunk, "encoder_q.fc", "encoder_k.fc")


def moco_v2(trunk, *names):
    return moco(trunk, "encoder_q.fc.0", "encoder_q.fc.2", "encoder_k.fc.0", *names)


def resim(trunk):
    return moco_v2(trunk, *under("encoder_q.", dict.fromkeys(RESIM_FPN)))


def arrays(trunk):
    return {to_detectron2(key): value.numpy() for key, value in trunk.items()}


def resim_backbone(trunk):
    others = heads("stem.fc.0", "stem.fc.2", *under("backbone.", dict.fromkeys(RESIM_FPN)))
    model = arrays(trunk) | {key: value.numpy() for key, value in others.items()}
    return {"model": model, "__author__": "MOCO", "matching_heuristics": True}


def densecl_training(trunk):
    state = under("backbone.", trunk) | under("encoder_q.0.", trunk) | under("encoder_k.0.", trunk)
    state |= heads("encoder_q.1.mlp.0", "encoder_q.1.mlp2.2", "encoder_k.1.mlp.0")
    for queue in ("queue", "queue2"):
        state |= {queue: SEVEN.expand(128, 65536), f"{queue}_ptr": torch.zeros(1)}
    return training("state_dict", OrderedDict(state), meta={"mmcv_version": "1.0.3"})


def slotcon(trunk):
    names = ("projector_q.mlp.0", "projector_k.mlp.0", "predictor_slot.mlp.0", "center")
    names += ("grouping_q.slot_embed", "grouping_k.slot_embed")
    state = wrapped(trunk, "encoder_k.", "encoder_q.", *names)
    return training("model", state, args=OPTIONS, scaler={"scale": 65536.0})


def vicregl(trunk):
    """Its optimizer's groups name a function of its own code."""
    state = wrapped(trunk, "backbone.", "", "maps_projector.0", "projector.0", "classifier")
    saved = training("model", state, np.float64(0.2))
    saved["optimizer"]["param_groups"][0]["weight_decay_filter"] = exclude_bias_and_norm
    return saved


def exclude_bias_and_norm(parameter):
    return parameter.ndim == 1


exclude_bias_and_norm.__module__ = "optimizers"


def setsim(trunk):
    names = ("encoder_q.0.fc.0", "encoder_k.0.fc.0", "encoder_q.1.0", "encoder_k.1.0")
    state = wrapped(trunk, "encoder_q.0.", "encoder_k.0.", *names)
    return training("state_dict", state, arch="resnet50")


def swav(trunk):
    return wrapped(trunk, "", "", "projection_head.0", "projection_head.1", "prototypes")


def swav_training(trunk):
    return training("state_dict", swav(trunk), np.float64(4.8))


def dino(trunk):
    teacher = wrapped(trunk, "backbone.", "", "head.mlp.0", "head.last_layer.weight_g")
    student = wrapped(
        {key: SEVEN.expand(value.shape) for key, value in trunk.items()}, "backbone.", ""
    )
    loss = OrderedDict(center=torch.zeros(1, 5))
    return training(
        "teacher", teacher, np.float64(1), student=student, args=OPTIONS, dino_loss=loss
    )


def soco(trunk, *names):
    names += ("projector.linear1", "projector_k.linear1", "predictor.linear1")
    state = wrapped(trunk, "encoder.", "encoder_k.", *names)
    return {"opt": OPTIONS, "model": state, "epoch": 400}


def soco_fpn(trunk):
    return soco(trunk, "neck.fpn_convs.0.conv", "neck_k.fpn_convs.0.conv", "head.fc1", "head_k.fc1")


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
    blobs = {caffe2_name(key): value.numpy() for key, value in trunk.items()}
    blobs |= {f"{key}_momentum": np.zeros(2, np.float32) for key in list(blobs)}
    return blobs | dict.fromkeys(("fc1000_w", "fc1000_b", "conv1_b"), np.zeros((2, 3), np.float32))


def by_another_converter(trunk):
    """What the released converters of CLoVE, PixPro, MoCo, SlotCon and others pickle."""
    return {"model": arrays(trunk), "__author__": "PixPro", "matching_heuristics": True}


def fpn_model(trunk):
    model = {f"backbone.bottom_up.{to_detectron2(key)}": value for key, value in trunk.items()}
    return {"model": model | heads("backbone.fpn_lateral3", "roi_heads.box_head.fc1")}


def c4_model(trunk):
    named = {to_detectron2(key): value for key, value in trunk.items()}
    parts = {name: "roi_heads." if name.startswith("res5") else "backbone." for name in named}
    model = {parts[name] + name: value for name, value in named.items()}
    return {"model": model | heads("roi_heads.res5.norm")}


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


def protocol(number):
    return lambda value, path: path.write_bytes(pickle.dumps(value, protocol=number))


def legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


# method, file: (what is in it, how it is written, network, whether its method is recognised)
FILES = {
    ("clove", "step.pth"): (own, torch.save, "student", True),
    ("clove", "ckpt_epoch_200.pth"): (released, torch.save, "student", True),
    ("pixpro", "ckpt_epoch_400.pth"): (pixpro, legacy, "student", True),
    ("pixpro", "pixpro_base.pth"): (
        *(lambda trunk: {"model": pixpro(trunk)["model"]}, torch.save, "student", True),
    ),
    ("moco", "moco_v1.pth.tar"): (moco_v1, legacy, "student", True),
    ("moco", "moco_v2.pth.tar"): (moco_v2, legacy, "student", False),
    ("resim", "resim_fpn.pth.tar"): (resim, torch.save, "student", True),
    ("resim", "resim_c4.pth.tar"): (moco_v2, torch.save, "student", False),
    ("resim", "resim_fpn_backbone.pth.tar"): (resim_backbone, torch.save, "student", True),
    ("resim", "before_the_zip_format.pth.tar"): (resim_backbone, legacy, "student", True),
    ("densecl", "densecl_r50.pth"): (
        *(lambda trunk: {"state_dict": trunk, "author": "DenseCL"}, legacy, "student", True),
    ),
    ("densecl", "epoch_200.pth"): (densecl_training, torch.save, "student", True),
    ("detco", "detco_200ep.pth"): (
        *(lambda trunk: {"state_dict": trunk | heads("fc")}, torch.save, "only network", False),
    ),
    ("slotcon", "ckpt_epoch_200.pth"): (slotcon, torch.save, "teacher", True),
    ("slotcon", "backbone.pth"): (
        *(lambda trunk: {"state_dict": trunk}, torch.save, "teacher", False),
    ),
    ("slotcon", "bare.pth"): (OrderedDict, torch.save, "teacher", False),
    ("vicregl", "resnet50_alpha0.9.pth"): (OrderedDict, torch.save, "only network", False),
    ("vicregl", "resnet50_fullckpt.pth"): (vicregl, torch.save, "only network", True),
    ("setsim", "checkpoint_0199.pth.tar"): (setsim, torch.save, "student", True),
    ("swav", "swav_800ep_pretrain.pth.tar"): (swav, legacy, "only network", True),
    ("swav", "ckp-199.pth"): (swav_training, legacy, "only network", True),
    ("dino", "dino_resnet50_pretrain.pth"): (OrderedDict, torch.save, "teacher", False),
    ("dino", "dino_full_checkpoint.pth"): (dino, torch.save, "teacher", True),
    ("soco", "ckpt_epoch_400.pth"): (soco_fpn, torch.save, "student", True),
    ("soco", "ckpt_epoch_100.pth"): (soco, torch.save, "student", False),
    ("supervised", "resnet50.pth"): (
        *(lambda trunk: OrderedDict(trunk | heads("fc")), torch.save, "only network", True),
    ),
    ("supervised_msra", "R-50.pkl"): (msra, write_python2, "only network", True),
    ("supervised_msra", "by_python_3.pkl"): (msra, protocol(2), "only network", True),
    ("supervised_msra", "of_a_detector.pkl"): (
        *(lambda trunk: {"blobs": msra(trunk)}, write_python2, "only network", True),
    ),
    ("moco", "d2.pkl"): (by_another_converter, protocol(2), "only network", False),
    ("pixpro", "d2_of_protocol_5.pkl"): (by_another_converter, protocol(5), "only network", False),
    ("dino", "model_final_fpn.pth"): (fpn_model, torch.save, "only network", False),
    ("clove", "model_final_c4.pth"): (c4_model, torch.save, "only network", False),
    ("other", "simsiam.pth.tar"): (
        lambda trunk: training("state_dict", wrapped(trunk, "encoder.", "", "encoder.fc.0")),
        *(legacy, "only network", False),
    ),
}


def write(method, name, trunk, folder):
    """The path of the file, written as the method's code does."""
    build, save, _, _ = FILES[method, name]
    optimizers = types.ModuleType("optimizers")  # VICRegL's
    optimizers.exclude_bias_and_norm = exclude_bias_and_norm
    sys.modules["optimizers"] = optimizers
    try:
        save(build(trunk), Path(folder) / name)
    finally:
        del sys.modules["optimizers"]
    return Path(folder) / name
