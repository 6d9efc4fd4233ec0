"""Randomness by name: every epoch draws from (seed, epoch, purpose), never from what ran before in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `parts`, e.g. (seed, epoch, "shuffle")."""
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_of(*parts: int | str) -> int:
    """63 bits that depend on all `parts`."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Torch's global generators start from `parts` inside (dropout, stochastic depth) and are as before outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*parts))
        yield


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Kernels that give the same bits every time, where torch has them; the switches are as before outside.

    On the CPU they are the default ones (at a fixed number of threads).
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = before[1:]
