"""Which folders of results were seen without parts a moment ago: listing them for each cell would cost too much."""

from __future__ import annotations

import time

from raybench.results.layout import ResultFile, parse
from raybench.storage.base import Storage

FRESH_S = 5.0  # a row that is both in a part and by itself, after another process compacted meanwhile, is read once

_without: dict[tuple[str, str], float] = {}  # (storage, folder) -> when it was listed


def parts_below(storage: Storage, folder: str) -> list[ResultFile]:
    """The parts in a folder of cells.

    Args:
        storage: the storage.
        folder: key of a folder below `CELLS`.

    Returns:
        The parts, sorted by key; none without a look where there was none a moment ago.

    Example:
        >>> import tempfile
        >>> from raybench.storage.open import open_storage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parts_below(open_storage(folder), "results/cells/dataset=digits/model=my-net")
        []
    """
    place = (storage.url, folder)
    if time.monotonic() - _without.get(place, float("-inf")) < FRESH_S:
        return []
    found = [file for key in storage.list(folder) if "/part-" in key and (file := parse(key)) and file.kind == "part"]
    if not found:
        _without[place] = time.monotonic()
    return found


def forget(storage: Storage) -> None:
    """Look again at all folders of a storage: this process writes parts there.

    Args:
        storage: the storage.

    Example:
        >>> import tempfile
        >>> from raybench.storage.open import open_storage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     forget(open_storage(folder))
    """
    for place in [place for place in _without if place[0] == storage.url]:
        del _without[place]
