"""The methods by name, and the contract that all of them keep.

A method is a ``torch.nn.Module`` in a file of its own. It has

- a constructor ``(encoder, *, ...)`` whose keyword arguments, in capitals, are the keys of a
  config's METHOD, with the published values as defaults; ValueError for values that do not fit;
- ``forward(global_crops, local_crops, boxes, teacher_momentum=None)``: a dict of scalars, "loss"
  and detached statistics; a float updates the teacher before anything else;
- the networks ``student`` and, where there is one, ``teacher``, each with an ``encoder``;
- the class attributes
  ``boxes``: "centers" or "edges", the kind of boxes it takes (pretrain/augment.py),
  ``exported``: "student" or "teacher", the network whose ``encoder`` is converted,
  ``synchronize_bn``: whether several GPUs share the statistics of BN,
  ``zero_last_gamma``: whether the last BN of every residual block starts at zero,
  ``compiled``: names of the networks and functions that torch.compile takes on GPUs;
- ``load_released(state_dict)``: the weights that the authors released, strictly;
- where it needs them, ``maps(images)``: dense unit embeddings (N,D,H,W) of student and teacher for
  the monitors, which look at C5 otherwise, and ``min_cells``: how many cells the map of a global
  crop must have.
"""

import inspect

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE
from pretrain.runtime.config import ConfigError, nearest

METHODS: dict[str, type[nn.Module]] = {"clove": CLoVE}


def complete(cfg: CfgNode) -> CfgNode:
    """A frozen copy of ``cfg`` whose METHOD has every key of its method.

    Raises ConfigError for an unknown method or key, with the nearest known one, or a wrong type.
    """
    cfg = cfg.clone()
    cfg.defrost()
    given = dict(cfg.METHOD)
    name = given.pop("NAME")
    if name not in METHODS:
        raise ConfigError(f"METHOD.NAME {name!r} is not one of {', '.join(METHODS)}")
    defaults = {
        key.upper(): parameter.default
        for key, parameter in inspect.signature(METHODS[name]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for key, value in given.items():
        if key not in defaults:
            raise ConfigError(
                f"METHOD.{key}: {name} has no such key{nearest(key, defaults)}; it has "
                f"{', '.join(defaults)}"
            )
        wanted = type(defaults[key])
        if wanted is float and type(value) is int:
            given[key] = float(value)
        elif type(value) is not wanted:
            raise ConfigError(f"METHOD.{key} {value!r} is not of type {wanted.__name__}")
    cfg.METHOD = CfgNode({"NAME": name, **defaults, **given}, new_allowed=True)
    cfg.freeze()
    return cfg


def build_model(cfg: CfgNode) -> nn.Module:
    """The method of a complete config on its encoder, randomly initialised.

    Raises ConfigError for values that do not go together.
    """
    name, arguments = cfg.METHOD.NAME, {k.lower(): v for k, v in cfg.METHOD.items() if k != "NAME"}
    method = METHODS[name]
    try:
        encoder = build_encoder(cfg.ENCODER.ARCH, method.zero_last_gamma)
        model = method(encoder, **arguments)
    except (ValueError, AssertionError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(f"METHOD {name}: {error}") from error  # torch's own, for odd sizes
    cells = (-(-cfg.CROPS.GLOBAL_SIZE // encoder.stride)) ** 2
    if cells < getattr(model, "min_cells", 1):
        raise ConfigError(
            f"CROPS.GLOBAL_SIZE {cfg.CROPS.GLOBAL_SIZE} gives {cells} cells, fewer than the "
            f"{model.min_cells} that METHOD {name} needs: use larger crops, or fewer negatives"
        )
    return model.to(memory_format=torch.channels_last)
