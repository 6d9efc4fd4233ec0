"""Memory that a process has freed: kept for the next step of training, given back between units."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # glibc's names of what `mallopt` sets
MOST = 2**31 - 1  # bytes; `mallopt` takes an int
GROWTH = 64 << 20  # bytes by which the heap grows at least


def keep_freed() -> bool:
    """Make glibc keep what is freed, until `give_back`; whether this is glibc. No number changes.

    It gives tensors of some 100 KB and more back to the system, which then hands out the same memory page by page,
    zeroed, in each step: about a sixth of a ResNet-18's step on a CPU (docs/benchmarks.md).
    """
    library = _glibc()
    if library is None:
        return False
    settings = {MMAP_THRESHOLD: MOST, TRIM_THRESHOLD: MOST, TOP_PAD: GROWTH}
    return all(library.mallopt(name, value) for name, value in settings.items())


def give_back() -> None:
    """Make glibc return free memory to the system, also from between what is in use."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """None where there is another C library, or another system."""
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None
