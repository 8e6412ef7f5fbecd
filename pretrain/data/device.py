"""What the model takes, on its device: views with their colours changed, normalized, and boxes."""

from collections.abc import Callable, Iterable, Iterator

import torch

from pretrain import photometry
from pretrain.augment import boxes_of
from pretrain.data.multicrop import Batch


def on_device(
    batches: Iterable[Batch],
    device: torch.device,
    boxes: str = "centers",
    dtype: torch.dtype = torch.float32,
    prepare: Callable[..., list[torch.Tensor]] = photometry.prepare,
) -> Iterator[tuple[tuple[torch.Tensor, ...], Batch]]:
    """For each batch what the model takes, and the batch itself; arguments as for ``to_device``.

    A GPU prepares a batch on a stream of its own while it still computes the step before: the host
    is here as soon as it has launched that one.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        with torch.cuda.stream(stream):  # of None: nothing
            views = to_device(batch, device, boxes, dtype, prepare)
        if stream is not None:
            torch.cuda.current_stream(device).wait_stream(stream)
            for tensor in views:
                tensor.record_stream(torch.cuda.current_stream(device))
        yield views, batch


def to_device(
    batch: Batch,
    device: torch.device,
    boxes: str = "centers",
    dtype: torch.dtype = torch.float32,
    prepare: Callable[..., list[torch.Tensor]] = photometry.prepare,
) -> tuple[torch.Tensor, ...]:
    """Global crops (2,B,3,S,S), local crops (V,B,3,s,s), boxes (2+V,B,4).

    Crops are normalized. ``boxes``: "centers" or "edges" (``augment.boxes_of``). ``dtype``: of the
    crops on a GPU, that which the first layer computes in; float32 on a CPU. ``prepare``:
    ``photometry.prepare``, or that compiled.
    """
    crops = batch.global_crops, batch.local_crops
    if device.type == "cpu":  # the loader has changed the colours
        views = [photometry.normalize(each.float() / 255) for each in crops]
    else:
        numbers = batch.photometry.to(device, non_blocking=True).flatten(0, 1)
        pixels = [each.to(device, non_blocking=True).flatten(0, 1) for each in crops]
        views = prepare(pixels, numbers, photometry.tables(device), dtype)
        views = [view.unflatten(0, each.shape[:2]) for view, each in zip(views, crops, strict=True)]
    return *views, boxes_of(batch.crops.to(device, non_blocking=True), boxes)
