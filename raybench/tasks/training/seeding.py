"""Random generators seeded by (seed, epoch, purpose), independent of what ran before in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `parts`, e.g. (seed, epoch, "shuffle")."""
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on all `parts`."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Context in which torch's global generators (used by dropout, stochastic depth) are seeded by `parts`."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*parts))
        yield


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Context with deterministic CUDA kernels where torch has them; nothing changes for the CPU.

    CPU kernels are deterministic by default, at a fixed number of threads.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # torch defines its attribute through a module class
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)  # an evaluation ends inside of training
        memory.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = before
