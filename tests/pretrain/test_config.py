"""The keys of pretraining: what each recipe needs can be said, and what cannot be is refused."""

import pytest

from pretrain.config import check, get_cfg
from pretrain.runtime.config import ConfigError, merge

WRONG = {
    "CROPS.GLOBAL_SIZE 0": r"CROPS\.GLOBAL_SIZE 0 is under 1",
    "CROPS.NUM_LOCALS -1": r"CROPS\.NUM_LOCALS -1 is under 0",
    "MONITOR.IMAGES 1": r"MONITOR\.IMAGES 1 is under 2",
    "MONITOR.PICTURE_PERIOD 0": r"MONITOR\.PICTURE_PERIOD 0 is under 1",
    "ENCODER.ARCH vit": r"ENCODER\.ARCH 'vit' is not one of resnet18, ",
    "SOLVER.PRECISION fp8": r"SOLVER\.PRECISION 'fp8' is not one of fp32, bf16, fp16",
    "SOLVER.OPTIMIZER adam": r"SOLVER\.OPTIMIZER 'adam' is not one of lars, sgd",
    "CROPS.GLOBAL_AREA (0.5,0.2)": r"GLOBAL_AREA \(0\.5, 0\.2\) is not a range \(from, to\)",
    "CROPS.LOCAL_AREA (0.5,1.2)": r"LOCAL_AREA \(0\.5, 1\.2\) is not within 0 and 1",
    "CROPS.BLUR (1.0,0.1)": r"BLUR \(1\.0, 0\.1\) has 2 values, not 3",
    "CROPS.JITTER 1.5": r"JITTER 1\.5 is not within 0 and 1",
    "SOLVER.TEACHER_MOMENTUM_END -1": r"TEACHER_MOMENTUM_END -1\.0 is not within 0 and 1",
    "SOLVER.BASE_LR -1": r"BASE_LR -1\.0 is not within 0 and 1\.79",
    "SOLVER.WEIGHT_DECAY 1e999": r"WEIGHT_DECAY inf is not within 0 and",
    "SOLVER.MILESTONES ('a',)": r"MILESTONES \('a',\) is not within 0 and",
    "DATA.MAX_BAD_SHARE 2": r"MAX_BAD_SHARE 2\.0 is not within 0 and 1",
    "DATA.NUM_WORKERS -1": r"NUM_WORKERS -1 is under 0",
    "SOLVER.BATCH_SIZE_PER_GPU 0": r"BATCH_SIZE_PER_GPU 0 is under 1",
    "CROPS.PATCH_SIZE 64": r"PATCH_SIZE 64 exceeds a third of CROPS\.LOCAL_SIZE 96",
    "SOLVER.EPOCHS None": r"SOLVER\.EPOCHS None is not of type int",
    "SOLVER.COMPILE None": r"SOLVER\.COMPILE None is not of type bool",
    "OUTPUT_DIR None": r"OUTPUT_DIR None is not of type str",
    "SEED 9999999999": r"SEED 9999999999 is not below 2147483648",
    "SOLVER.WARMUP_EPOCHS 201": r"SOLVER\.WARMUP_EPOCHS 201 exceeds SOLVER\.EPOCHS 200",
}


@pytest.mark.parametrize("words", WRONG)
def test_values_that_would_fail_late_or_silently_are_refused(words):
    cfg = get_cfg()
    merge(cfg, None, words.split())
    with pytest.raises(ConfigError, match=WRONG[words]):
        check(cfg)
