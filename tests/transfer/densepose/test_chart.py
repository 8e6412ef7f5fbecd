"""The head's parameters, by upstream's names, and its config keys."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from pretrain.runtime.config import ConfigError, flatten, plain
from tests.transfer.densepose.cases import load_json
from transfer.config import resolve
from transfer.densepose.config import add_densepose_config
from transfer.densepose.roi_heads import DensePoseROIHeads

HEADS = load_json("head")
CONFIGS = load_json("config")
RECIPES = ("s1x", "s1x_legacy")
SHAPES = {f"p{level}": ShapeSpec(channels=256, stride=2**level) for level in range(2, 7)}
HEAD = "MODEL.ROI_DENSEPOSE_HEAD"

# What changes for self-supervised weights; --weights says MODEL.WEIGHTS.
TRANSFER = {
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
    "TEST.PRECISE_BN.ENABLED": True,
}


def config(recipe, overrides=()):
    return resolve(
        f"configs/transfer/densepose/densepose_rcnn_R_50_FPN_{recipe}.yaml", None, overrides
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_names_shapes_and_numbers_of_parameters_are_upstreams(recipe):
    golden = HEADS[recipe]
    with torch.device("meta"):
        model = build_model(
            config(recipe, ["MODEL.DEVICE", "meta", "MODEL.RESNETS.NORM", "FrozenBN"])
        )
    shapes = {
        name: list(value.shape)
        for name, value in model.state_dict().items()
        if name.startswith("roi_heads.")
    }
    assert shapes == golden["state_dict"] | golden["other_roi_heads_keys"]
    heads = model.roi_heads
    parts = {
        "decoder": heads.decoder,
        "densepose_head": heads.densepose_head,
        "densepose_predictor": heads.densepose_predictor,
        "roi_heads_total": heads,
        "proposal_generator": model.proposal_generator,
    }
    for name, part in parts.items():
        count = 0 if part is None else sum(value.numel() for value in part.parameters())
        assert count == golden["parameters"][name], name
    pooler = heads.densepose_pooler
    assert list(pooler.output_size) == golden["pooler"]["output_size"]
    assert [level.spatial_scale for level in pooler.level_poolers] == golden["pooler"]["scales"]
    for level in pooler.level_poolers:
        assert level.sampling_ratio == golden["pooler"]["sampling_ratio"]
        assert level.aligned == golden["pooler"]["aligned"]


def test_initial_weights_have_upstreams_spread():
    torch.manual_seed(0)
    weights = DensePoseROIHeads(config("s1x"), SHAPES).state_dict()
    assert len(HEADS["init_std_s1x"]) == 40
    for name, golden in HEADS["init_std_s1x"].items():
        value = weights[name.removeprefix("roi_heads.")]
        if name.endswith("bias"):
            assert not value.any()
        else:
            # both are estimates, each with a standard error of 0.71 / sqrt(n)
            within = max(0.02, 4 / value.numel() ** 0.5)
            assert float(value.std()) == pytest.approx(golden["std"], rel=within), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_is_upstreams_with_the_changes_of_a_transfer(recipe):
    golden = plain(flatten(CONFIGS[f"densepose_rcnn_R_50_FPN_{recipe}"]))
    values = plain(flatten(config(recipe)))
    shared = golden.keys() & values.keys()
    assert {name for name in golden if "DENSEPOSE" in name} <= shared
    differing = {name: values[name] for name in shared if values[name] != golden[name]}
    assert differing == TRANSFER


def test_keys_have_upstreams_defaults():
    cfg = get_cfg()
    known = plain(flatten(cfg))
    add_densepose_config(cfg)
    added = {key: value for key, value in plain(flatten(cfg)).items() if key not in known}
    base = plain(flatten(CONFIGS["Base-DensePose-RCNN-FPN"]))
    set_by_base = {f"{HEAD}.NAME": "", f"{HEAD}.POOLER_TYPE": "ROIAlignV2"}
    assert added == {key: base[key] for key in added} | set_by_base


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{HEAD}.HEATMAP_SIZE", "56"], r"HEATMAP_SIZE is 56.*Add: .*HEATMAP_SIZE 112"),
        ([f"{HEAD}.DECODER_NUM_CLASSES", "128"], r"DECODER_NUM_CLASSES is 128.*NUM_CLASSES 256"),
        ([f"{HEAD}.UV_CONFIDENCE.ENABLED", "True"], r"Add: .*ENABLED False"),
        (["INPUT.ROTATION_ANGLES", "[0, 90]"], r"Add: INPUT.ROTATION_ANGLES \[0\]"),
        ([f"{HEAD}.NAME", "DensePoseDeepLabHead"], r"NAME is 'DensePoseDeepLabHead'"),
        ([f"{HEAD}.NUM_COARSE_SEGM_CHANNELS", "3"], r"CHANNELS is 3.*CHANNELS 2 or .* 15"),
        (["DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD", "0.97"], r"THRESHOLD 0.97: must be 0 to 0.5"),
        ([f"{HEAD}.CSE.EMBED_SIZE", "16"], r"unknown key MODEL.ROI_DENSEPOSE_HEAD.CSE"),
    ],
)
def test_what_is_out_of_scope_or_does_not_fit_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        config("s1x", overrides)
