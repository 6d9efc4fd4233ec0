"""Sets damaged files aside under `damaged/`, so that they are made again, and names each in one line."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from raybench.errors import RaybenchWarning, handled_warnings
from raybench.storage.base import Storage

DAMAGED = "damaged"


class DamageWarning(RaybenchWarning):
    """Something in the storage was damaged and was set aside. The text is one line that names it."""


def set_aside(storage: Storage, key: str, why: str) -> bool:
    """Move the file or entry `key` to ``damaged/<key>-<time>`` and warn in one line; False if it is gone already.

    Nothing is lost: what was damaged stays in the storage until `raybench gc --delete` removes it.
    """
    place = f"{DAMAGED}/{key}-{time.time_ns()}"
    moved = storage.rename(key, place)
    if moved:
        warnings.warn(f"{key} is damaged: {why}; it was set aside as {place}", DamageWarning, stacklevel=2)
    return moved


@contextmanager
def collected_damage() -> Iterator[list[str]]:
    """Collects the lines of `DamageWarning` in a list instead of showing them; other warnings are shown as usual."""
    lines: list[str] = []

    def collected(message: str, category: type[Warning], filename: str) -> bool:
        ours = issubclass(category, DamageWarning)
        if ours:
            lines.append(message)
        return ours

    with warnings.catch_warnings():
        warnings.simplefilter("always", DamageWarning)
        with handled_warnings(collected):
            yield lines
