"""Images that decoders spoil or refuse: deeper than 8 bits, or with long texts in them."""

import numpy as np
from PIL import Image, PngImagePlugin

# Of one text or colour profile in a PNG, which nothing here reads; image editors write megabytes
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


FEW_LEVELS = 16  # of grey, under which an image is as good as lost


def require_full_colours(image: Image.Image) -> None:
    """Raise ValueError for colours of 16 bits in an opened image that lie in the lower 12.

    PIL keeps the upper 8 bits of colours, so that there is nothing left to scale.
    """
    deep = image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in image.tile)
    if deep and max(high for _, high in image.getextrema()[:3]) < FEW_LEVELS:
        raise ValueError("its colours have 16 bits and use the lower 12: use all 16, or 8")


def to_8_bits(image: Image.Image) -> Image.Image:
    """``image`` itself, or as 8 bits of grey where it is deeper: PIL would cut all above 255.

    Of whole numbers the 8 leading bits stay, counted from the highest bit that the image uses, so
    that 12 bits in a file of 16 keep their grey levels. Floats from 0 to 1 become 0 to 255, others
    are stretched from the least to the largest. Raises ValueError for NaN and infinity, and where
    a few values far from the others would leave under 16 grey levels.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise ValueError("some pixels are no finite numbers")
    before, least, largest = len(np.unique(pixels)), pixels.min(), pixels.max()
    if image.mode == "F":
        if least < 0 or not 0.1 < largest <= 1:
            pixels = (pixels - least) / max(largest - least, np.finfo(float).tiny)
        pixels *= 255
    else:
        pixels -= min(least, 0)
        if (highest := pixels.max()) > 255:
            pixels /= 2.0 ** (np.floor(np.log2(highest)) - 7)
    levels = pixels.astype(np.uint8)
    if before >= 2 * FEW_LEVELS and len(np.unique(levels)) < FEW_LEVELS:
        raise ValueError(
            f"of {before} grey values from {least:g} to {largest:g} under {FEW_LEVELS} would be "
            "left in 8 bits: replace the few that are far from the others, or save it as 8 bits"
        )
    return Image.fromarray(levels)
