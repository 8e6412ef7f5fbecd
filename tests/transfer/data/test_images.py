"""Images as fine-tuning reads them."""

import errno
import functools

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from pretrain.runtime.files import DataError
from transfer.data.images import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_detectron2_reads_images_with_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    read = functools.partial(detection_utils.read_image, str(tmp_path / "a.png"))
    assert detection_utils.read_image is read_image
    np.testing.assert_array_equal(read("RGB"), np.rot90(PIXELS, -1))
    np.testing.assert_array_equal(read("BGR"), np.rot90(PIXELS, -1)[..., ::-1])


def test_images_of_16_bits_keep_their_grey_levels(tmp_path):
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    found = read_image(str(tmp_path / "a.png"), "RGB")
    np.testing.assert_array_equal(found, PIXELS[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0, 0.1, 0.6])
def test_a_file_that_is_not_whole_is_named(ending, share, tmp_path):
    file = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=f"a.{ending} is not a readable image"):
        read_image(str(file), "RGB")


def test_a_disks_error_stays_one(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_image(str(tmp_path / "a.png"), "RGB")
