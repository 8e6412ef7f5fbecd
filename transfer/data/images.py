"""Images as fine-tuning reads them: Detectron2's way, of any depth, with errors that name files."""

import numpy as np
from detectron2.data import detection_utils
from PIL import Image

from pretrain.runtime.files import DataError
from pretrain.runtime.images import require_full_colours, to_8_bits


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """An upright image (H, W, C) uint8; format: a mode of PIL's, or BGR. See ``to_8_bits``.

    Importing ``transfer`` puts it in the place of Detectron2's, whose mappers call it. Raises
    DataError for a file that is no image, or not a whole one; OSError where the disk is at fault.
    """
    try:
        with Image.open(file_name) as image:
            require_full_colours(image)
            upright = detection_utils._apply_exif_orientation(image)
            return detection_utils.convert_PIL_to_numpy(to_8_bits(upright), format)
    except Exception as fault:  # decoders raise errors of any type at damaged files
        if isinstance(fault, OSError) and fault.errno is not None:
            raise
        raise DataError(f"{file_name} is not a readable image ({fault})") from fault


detection_utils.read_image = read_image
