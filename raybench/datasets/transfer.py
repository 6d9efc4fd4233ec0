"""Tensors on their way from the host to the device: on a GPU through pinned memory, decoded batches one ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the host on `device`. A GPU copies them from pinned memory, so that the host doesn't wait for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def on_device(batches: Iterable[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Yield each (b, h, w, 3) uint8 batch as (b, 3, h, w) float32 in 0..1 on `device`.

    All are NCHW, as images in memory are. On CUDA the next batch is copied from pinned memory, on a stream of its own,
    while the network computes on this one.
    """
    if device.type == "cuda":
        yield from _ahead(batches, device)
        return
    for batch in batches:
        yield _in_floats(torch.from_numpy(batch).to(device))


def _ahead(batches: Iterable[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Two batches on the device: one that is computed on, one that is being copied. Written without a GPU at hand."""
    copying = torch.cuda.Stream(device)
    waiting: Tensor | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            coming = torch.from_numpy(batch).pin_memory().to(device, non_blocking=True)
        if waiting is not None:
            yield _in_floats(waiting)
        torch.cuda.current_stream(device).wait_stream(copying)
        coming.record_stream(torch.cuda.current_stream(device))
        waiting = coming
    if waiting is not None:
        yield _in_floats(waiting)


def _in_floats(batch: Tensor) -> Tensor:
    return batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
