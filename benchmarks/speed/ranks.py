"""Two processes against one on the same cores, at the same total batch: images per second."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.scenes.generate import Request, generate
from benchmarks.speed.compare import spread
from pretrain.runtime.config import REPOSITORY

CORES = 2
BATCH = 16  # images per step, of all processes
IMAGES = 64
EPOCHS = 4
WARM_UP = 4  # steps


def compare(pairs: int) -> str:
    """A line: median rates of two processes and of one; median, least and largest ratio."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "scenes"), Request(IMAGES, train=8, val=4), workers=CORES)
        for pair in range(pairs):
            for processes in (1, 2) if pair % 2 else (2, 1):
                output = Path(folder, f"{pair}_{processes}")
                rates[processes].append(images_per_second(folder, output, processes))
    two, one = (f"{statistics.median(rates[processes]):.2f}" for processes in (2, 1))
    ratio = "ratio {} ({} to {})".format(*spread(rates[2], rates[1]))
    return f"images/s: 2 processes {two}, 1 process {one}; {ratio}"


def images_per_second(folder: str, output: Path, processes: int) -> float:
    """Of a pretraining after its first steps; cores and loader processes are shared out."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    settings = (
        f"DATA.ROOT {folder}/scenes/coco/unlabeled2017 OUTPUT_DIR {output} DEVICE cpu "
        f"DATA.NUM_WORKERS {CORES // processes} SOLVER.TOTAL_BATCH_SIZE {BATCH} "
        f"SOLVER.BATCH_SIZE_PER_GPU {BATCH // processes} SOLVER.EPOCHS {EPOCHS} "
        f"SOLVER.WARMUP_EPOCHS 0 CHECKPOINT.PERIOD_EPOCHS {EPOCHS} MONITOR.PERIOD 0 LOG.PERIOD 1"
    )
    subprocess.run(
        [
            *(sys.executable, *(launcher if processes > 1 else []), "-m", "pretrain"),
            *("--config-file", "configs/pretrain/demo.yaml", *settings.split()),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": str(CORES // processes)},
        stderr=subprocess.PIPE,
        check=True,
    )
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return statistics.harmonic_mean(rates[WARM_UP:])
