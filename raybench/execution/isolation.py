"""Isolates units that share a process: a unit gives the same numbers alone as after twenty others."""

from __future__ import annotations

import gc
import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules import module as hooks

from raybench.execution.heap import give_back
from raybench.execution.torch_settings import Settings
from raybench.tasks.training.steps import failed_captures

HOST_BOUND = 1 << 30  # bytes of resident memory above the baseline at which the process is replaced
DEVICE_BOUND = 64 << 20  # the same for accelerator memory
FREE_S = 1.0  # memory is freed at most so often: after each of many short units it would cost as much as they do

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY)  # to come back to a folder that was removed or renamed meanwhile, too
_GLOBAL_HOOKS = [name for name, value in vars(hooks).items() if name.startswith("_global_") and isinstance(value, dict)]


@contextmanager
def isolated(key: str, threads: int) -> Iterator[None]:
    """Context for one unit: on leaving, restore torch's settings, environment and folder, and free memory.

    Random number generators are seeded from `key` alone; torch uses `threads` threads.
    """
    before = Settings.now()
    # The first call imports much of torch. Here, as one in `restore` fails after Ctrl-C within that import.
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    environment, folder = dict(os.environ), os.open(".", _FOLDER)
    before.fresh().restore(before)  # a caller's settings, or those that an import left, are in no id
    torch.set_num_threads(threads)
    _seed(int.from_bytes(key.encode()[:8]))
    try:
        with warnings.catch_warnings():
            # Every stream has a workspace of cuBLAS to itself in torch, and one stream computes: its sums are the same.
            warnings.filterwarnings("ignore", "Deterministic behavior was enabled .* CuBLAS", UserWarning)
            yield
    finally:
        before.restore()
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.fchdir(folder)
        os.close(folder)
        for name in _GLOBAL_HOOKS:
            getattr(hooks, name).clear()
        if time.monotonic() - _freed[0] > FREE_S:
            free()


_freed = [float("-inf")]  # when memory was last freed


def free() -> None:
    """Return unused memory to the device and to the operating system."""
    _freed[0] = time.monotonic()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        # cuBLAS keeps a workspace for each thread and stream that has multiplied, of 32 MiB on a Hopper card
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
    give_back()


class MemoryBaseline:
    """Memory of the process before its first unit, compared with its memory after each unit."""

    def __init__(self) -> None:
        free()
        self.host, self.device = resident(), _allocated()

    def excess(self) -> str:
        """A sentence about memory above the bounds, or that torch no longer accounts for; empty when there is none."""
        if failed_captures:
            return f"the memory of a CUDA graph that failed ({failed_captures[0]})"
        if resident() - self.host > HOST_BOUND or _allocated() - self.device > DEVICE_BOUND:
            free()
        host, device = resident() - self.host, _allocated() - self.device
        if host > HOST_BOUND:
            return f"{host >> 20} MiB of memory above the baseline of {self.host >> 20} MiB"
        if device > DEVICE_BOUND:
            return f"{device >> 20} MiB of device memory above the baseline of {self.device >> 20} MiB"
        return ""


def resident() -> int:
    """Resident memory of this process in bytes; 0 on systems without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0


def _seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(value % 2**63)
    else:  # the same for the processor alone; torch would note the call stack for each device that isn't there
        torch.default_generator.manual_seed(value % 2**63)
