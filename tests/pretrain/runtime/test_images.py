"""Images deeper than 8 bits."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pretrain.runtime.images import to_8_bits

RAMP = np.tile(np.arange(256), (4, 1))


def reread(array, kind):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return np.asarray(to_8_bits(Image.open(buffer)))


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        *itertools.product(
            [(RAMP * 257).astype(np.uint16), (RAMP * 16).astype(np.uint16), RAMP.astype(np.uint16)],
            ["PNG", "TIFF"],
        ),
        (RAMP.astype(np.int32) << 22, "TIFF"),
        ((RAMP - 128).astype(np.int32), "TIFF"),
        ((RAMP / 255).astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP * 257).astype(np.float32), "TIFF"),
    ],
)
def test_grey_levels_stay(array, kind):
    found = reread(array, kind)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, RAMP, rtol=0, atol=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="no finite numbers"):
        reread(np.full((4, 4), value, np.float32), "TIFF")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_of_8_bits_are_left_alone(mode):
    image = Image.new(mode, (4, 4))
    assert to_8_bits(image) is image
