"""Images deeper than 8 bits."""

import io
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from pretrain.runtime.images import require_full_colours, to_8_bits

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
        ((RAMP / 127.5 - 1).astype(np.float32), "TIFF"),
        ((RAMP / 250).astype(np.float32), "TIFF"),
        ((RAMP / 255000).astype(np.float32), "TIFF"),
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


@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_values_far_from_the_others_do_not_swallow_these_unseen(kind):
    ramp = (RAMP * 4).astype(kind)
    ramp[0, 0] = 65535
    with pytest.raises(ValueError, match=r"of 25[67] grey values from 0 to 65535 under 16"):
        reread(ramp, "TIFF")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_12_bits_in_a_file_of_16_are_refused(mode):
    colours = np.repeat((RAMP * 257).astype(np.uint16)[..., None], len(mode), axis=2)
    for shift, fits in ((0, True), (4, False)):
        png = cv2.imencode(".png", colours >> shift)[1].tobytes()
        if fits:
            require_full_colours(Image.open(io.BytesIO(png)))
        else:
            with pytest.raises(ValueError, match="use the lower 12"):
                require_full_colours(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_of_8_bits_are_left_alone(mode):
    image = Image.new(mode, (4, 4))
    assert to_8_bits(image) is image
