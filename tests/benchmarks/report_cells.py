"""Folders of cells with all that a fine-tuning leaves in them, and a way to open a page of them."""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.benchmarks.cells import write_cell

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-headless-shell")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="NO BROWSER: the page was not opened; apt-get install chromium",
)
CONFIG = {
    "MODEL": {"WEIGHTS": "random", "ROI_HEADS": {"NUM_CLASSES": 80, "NMS_THRESH_TEST": 0.5}},
    "SOLVER": {"BASE_LR": 0.02, "MAX_ITER": 90000, "STEPS": [60000, 80000]},
    "SEED": 0,
}


def write_full_cell(
    results: Path, init: str = "random", task: str = "coco_fpn", seed: int = 0, **changes: Any
) -> Path:
    """A finished cell with log, config and curves; returns its folder."""
    folder = write_cell(results, init, task, seed, **changes).parent
    write_begun_cell(results, init, task, seed)
    return folder


def write_begun_cell(
    results: Path, init: str, task: str, seed: int, lines: int = 30, **solver: Any
) -> Path:
    """What is there before ``metrics.json``."""
    folder = results / init / task / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    command = f"python -m transfer --task {task} --init {init} --seed {seed}"
    (folder / "stdout.log").write_text(f"$ {command}\niter 20\n")
    config = CONFIG | {"SEED": seed, "SOLVER": CONFIG["SOLVER"] | solver}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with open(folder / "training.jsonl", "w") as log:
        for number in range(lines):
            loss = 1 + 3 * math.exp(-6 * number / lines) + 0.1 * math.sin(number + 7 * seed)
            record = {"iteration": 20 * number + 19, "total_loss": loss, "lr": 0.02}
            record |= {"loss_cls": loss / 2, "loss_box_reg": loss / 3, "eta_seconds": 1.0}
            log.write(json.dumps(record) + "\n")
    return folder


def write_picture(folder: Path, name: str, size: tuple[int, int] = (1032, 534)) -> None:
    """Two panels, as ``--visualize`` draws them."""
    width, height = size
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    (folder / "pictures").mkdir(exist_ok=True)
    Image.fromarray(ramp).save(folder / "pictures" / name)


def write_matrix(results: Path, inits: list[str], tasks: list[str], seeds: list[int]) -> None:
    """As ``python -m benchmarks run`` does."""
    names = {init: {"method": "random", "epochs": None} for init in inits}
    matrix = {"format": 1, "config": "x.yaml", "inits": names, "tasks": tasks, "seeds": seeds}
    results.mkdir(parents=True, exist_ok=True)
    (results / "matrix.json").write_text(json.dumps(matrix))


def open_page(page: Path, script: str) -> dict[str, Any]:
    """Load ``page`` in Chromium, run ``script`` at its end; what that has put into ``verdict``.

    Fails for anything that the page's console said.
    """
    copy = page.with_name("opened.html")
    end = "document.body.textContent = 'VERDICT' + JSON.stringify(verdict) + 'END';"
    copy.write_text(
        page.read_text() + f"<script>{{const verdict = {{}};\n{script}\n{end}}}</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent / 'chromium'}", "--dump-dom", copy.as_uri()]
    home = os.environ | {"HOME": str(page.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=home)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    assert "VERDICT{" in done.stdout, done.stderr[-2000:]
    text = done.stdout.partition("VERDICT")[2].partition("END")[0]
    return json.loads(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
