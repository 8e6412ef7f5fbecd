"""Memory of reading and mapping, measured in forks of one process that has imported everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime.config import REPOSITORY
from tests.transfer import peers
from tests.transfer.memory import high_water
from tests.transfer.test_proof import random_trunk
from transfer.convert import convert
from transfer.reading import read_checkpoint

# Whole and half of the file used; mapped and read; arrays in three kinds of pickles.
MEASURED = (
    ("supervised", "torchvision's weights"),
    ("clove", "released file"),
    ("densecl", "released file"),
    ("moco", "v1 file"),
    ("resim", 'numpy "Detectron backbone" file'),
    ("resim", "numpy, before the zip format"),
    ("supervised_msra", "R-50.pkl, R-101.pkl of Detectron2's model zoo"),
    ("moco", "in Detectron2's names"),
)


def growth(path, method):
    """Bytes of memory that reading and mapping took at their highest, in a process of their own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        Path("/proc/self/clear_refs").write_text("5")
        before = high_water()
        conversion = convert(read_checkpoint(path, method), method)
        assert len(conversion.detectron2) in (265, 318)
        os.write(write, str(high_water() - before).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return int(os.read(read, 100))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured by Linux's /proc")
def test_reading_and_mapping_take_less_than_twice_the_file(tmp_path):
    trunk = random_trunk("resnet50").state_dict()
    files = []
    for number, key in enumerate(MEASURED):
        (tmp_path / str(number)).mkdir()
        files.append((str(peers.write(*key, trunk, tmp_path / str(number))), key[0]))
    command = [sys.executable, "-m", "tests.transfer.test_memory", json.dumps(files)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    for (path, method), bytes_taken in zip(files, json.loads(done.stdout), strict=True):
        assert bytes_taken < 2 * Path(path).stat().st_size, (method, bytes_taken)


if __name__ == "__main__":
    print(json.dumps([growth(path, method) for path, method in json.loads(sys.argv[1])]))
