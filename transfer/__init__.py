"""Fine-tuning with Detectron2.

Importing this registers our region heads, data sets and reader of images there.
"""

import warnings

try:
    # Detectron2's structures are scripted when they are imported; nobody here can mend that
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "transfer needs Detectron2, which is not installed here. Either `make install` (its Python "
        "part, pinned, into .venv), or bring upstream's own build: pip install "
        "--no-build-isolation git+https://github.com/facebookresearch/detectron2.git"
    ) from error

import transfer.data.densepose
import transfer.data.images
import transfer.densepose.roi_heads
import transfer.roi_heads  # noqa: F401
