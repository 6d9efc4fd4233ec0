"""Peak memory of a call, for benchmarks: of the process on a CPU (Linux), of torch's allocator on a GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

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


def _of_status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) >> 10
