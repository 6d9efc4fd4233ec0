"""One process runs many units, and none may notice another: same numbers alone as after twenty others."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules import module as hooks

HOST_BOUND = 1 << 30  # bytes that resident memory may keep above the baseline before the process is replaced
DEVICE_BOUND = 64 << 20  # bytes of accelerator memory; libraries keep a workspace of some 10 MiB

_GLOBAL_HOOKS = [name for name, value in vars(hooks).items() if name.startswith("_global_") and isinstance(value, dict)]


@contextmanager
def isolated(key: str, threads: int) -> Iterator[None]:
    """Run one unit as if the process were fresh; on leaving, undo what it did to the process and free its memory.

    Random number generators start from a value that depends on `key` alone, torch uses `threads` threads.
    """
    before = _settings()
    environment, folder = dict(os.environ), os.getcwd()
    torch.set_num_threads(threads)
    _seed(int.from_bytes(key.encode()[:8]))
    try:
        with warnings.catch_warnings():
            yield
    finally:
        _restore(before)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        for name in _GLOBAL_HOOKS:
            getattr(hooks, name).clear()
        free()


def free() -> None:
    """Give back what nobody uses any more, to the device and to the operating system."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    _trim()


class MemoryBaseline:
    """What the process held before its first unit, to compare with after each."""

    def __init__(self) -> None:
        free()
        self.host, self.device = resident(), _allocated()

    def excess(self) -> str:
        """In words, what the process holds too much; empty when it is back to its baseline."""
        host, device = resident() - self.host, _allocated() - self.device
        if host > HOST_BOUND:
            return f"{host >> 20} MiB of memory above the baseline of {self.host >> 20} MiB"
        if device > DEVICE_BOUND:
            return f"{device >> 20} MiB of device memory above the baseline of {self.device >> 20} MiB"
        return ""


def resident() -> int:
    """Resident memory of this process in bytes; 0 where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0


def _seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value % 2**63)


def _settings() -> dict[str, object]:
    """Every switch of torch that changes numbers, and that a unit could leave turned."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "enabled")},
    }


def _restore(before: dict[str, object]) -> None:
    torch.set_num_threads(before["threads"])
    torch.set_default_dtype(before["dtype"])
    torch.set_default_device(before["device"] if before["device"].type != "cpu" else None)
    torch.set_grad_enabled(before["grad"])
    torch.use_deterministic_algorithms(before["deterministic"])
    torch.set_float32_matmul_precision(before["precision"])
    torch.autograd.set_detect_anomaly(before["anomaly"])
    for name, value in before["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)


def _trim() -> None:
    """Make glibc hand free memory back, so that resident memory can be compared."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except OSError:
        return  # another C library, or another system
