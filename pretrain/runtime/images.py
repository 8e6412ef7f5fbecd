"""Images that decoders spoil or refuse: deeper than 8 bits, or with long texts in them."""

import numpy as np
from PIL import Image, PngImagePlugin

# Of one text or colour profile in a PNG, which nothing here reads; image editors write megabytes
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def to_8_bits(image: Image.Image) -> Image.Image:
    """``image`` itself, or as 8 bits of grey where it is deeper: PIL would cut all above 255.

    Of whole numbers the 8 leading bits stay, counted from the highest bit that the image uses, so
    that 12 bits in a file of 16 keep their grey levels. Floats up to 1 become 0 to 255, others are
    taken as whole numbers; what lies below 0 is first shifted up to it. Raises ValueError for NaN
    and infinity.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ValueError("some pixels are no finite numbers")
    pixels -= min(pixels.min(), 0)
    highest = pixels.max()
    if image.mode == "F" and highest <= 1:
        pixels *= 255
    elif highest > 255:
        pixels /= 2.0 ** (np.floor(np.log2(highest)) - 7)
    return Image.fromarray(pixels.astype(np.uint8))
