"""What the model takes, on its device: views with their colours changed, normalized, and boxes."""

from collections.abc import Iterable, Iterator

import torch

from pretrain import photometry
from pretrain.augment import boxes_of
from pretrain.data.multicrop import Batch


def on_device(
    batches: Iterable[Batch], device: torch.device, boxes: str = "centers"
) -> Iterator[tuple[tuple[torch.Tensor, ...], Batch]]:
    """For each batch what the model takes, and the batch itself.

    A GPU prepares a batch on a stream of its own while it still computes the step before: the host
    is here as soon as it has launched that one.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        with torch.cuda.stream(stream):  # of None: nothing
            views = to_device(batch, device, boxes)
        if stream is not None:
            torch.cuda.current_stream(device).wait_stream(stream)
            for tensor in views:
                tensor.record_stream(torch.cuda.current_stream(device))
        yield views, batch


def to_device(
    batch: Batch, device: torch.device, boxes: str = "centers"
) -> tuple[torch.Tensor, ...]:
    """Global crops (2,B,3,S,S), local crops (V,B,3,s,s), boxes (2+V,B,4), all float32.

    Crops are normalized. ``boxes``: "centers" or "edges" (``augment.boxes_of``).
    """

    def prepared(crops: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        pixels = crops.to(device, non_blocking=True).flatten(0, 1)
        if device.type == "cpu":  # the loader has changed the colours
            images = pixels.float() / 255
        else:
            images = photometry.apply(pixels, numbers.flatten(0, 1))
        return photometry.normalize(images).unflatten(0, crops.shape[:2])

    return (
        prepared(batch.global_crops, batch.photometry[:2]),
        prepared(batch.local_crops, batch.photometry[2:]),
        boxes_of(batch.crops.to(device, non_blocking=True), boxes),
    )
