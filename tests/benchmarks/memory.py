"""Peak memory of a call, for benchmarks: of the process on a CPU (Linux), of torch's allocator on a GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from raybench.execution import heap

STATUS = Path("/proc/self/status")


def held(device: torch.device) -> int:
    """MiB that are held now, after freed memory was given back."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) >> 20
    ctypes.CDLL(None).malloc_trim(0)
    return _of_status("VmRSS")


def peak(call: Callable[[], object], device: torch.device) -> int:
    """MiB that were held at most while `call` ran, above what was held before."""
    before = held(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) >> 20) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    call()
    return _of_status("VmHWM") - before


def heap_as_found() -> None:
    """Set glibc's heap to what it comes to by itself in a training script: 32 MiB is where its adjustment ends."""
    library = ctypes.CDLL("libc.so.6")
    for name, value in ((heap.MMAP_THRESHOLD, 32 << 20), (heap.TRIM_THRESHOLD, 64 << 20), (heap.TOP_PAD, 128 << 10)):
        library.mallopt(name, value)


def _of_status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) >> 10
