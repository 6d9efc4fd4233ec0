"""Mean durations of finished cells and stages, for the cost estimate of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raybench.results.layout import ResultFile

TIMED_FILES = 16  # small files that are read per partition

_CELL = ("seconds_prune", "seconds_finetune", "seconds_measure")
_SHARED = {"base": "seconds_base", "sparsify": "seconds_sparsify", "select": "seconds_select"}
TIMED = ("dataset", "model", "recipe", "protocol", "importance", "resumed_from", *_SHARED.values(), *_CELL)


def mean_seconds(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], float]:
    """Mean durations of finished cells and of the stages they share.

    Args:
        rows: rows with the columns TIMED.

    Returns:
        (kind of unit, dataset, model, recipe) -> mean seconds; for a selection, whose time depends on them most, the
        protocol and the criterion follow. Resumed cells are left out: they measured only their end.

    Example:
        >>> row = dict.fromkeys(TIMED) | {"dataset": "digits", "model": "my-net", "recipe": "quick"}
        >>> mean_seconds([row | {"seconds_base": 4.0}, row | {"seconds_base": 6.0}])
        {('base', 'digits', 'my-net', 'quick'): 5.0}
    """
    found: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        where = (row["dataset"], row["model"], row["recipe"])
        for kind, column in _SHARED.items():
            if row[column] is not None:
                how = (row["protocol"], row["importance"]) if kind == "select" else ()
                found.setdefault((kind, *where, *how), []).append(row[column])
        parts = [row[column] for column in _CELL]
        if not row["resumed_from"] and None not in parts:
            found.setdefault(("cell", *where), []).append(sum(parts))
    return {key: sum(values) / len(values) for key, values in sorted(found.items())}


def sample(files: Sequence[ResultFile]) -> list[ResultFile]:
    """Every part, and at most TIMED_FILES small files of each partition, evenly spaced.

    Args:
        files: the cells of a store.

    Returns:
        Some of `files`.

    Example:
        >>> from raybench.results.layout import partition
        >>> where = partition("digits", "my-net")
        >>> len(sample([ResultFile(f"{where}/{number:016x}.parquet", "cell") for number in range(160)]))
        16
    """
    partitions: dict[str, list[ResultFile]] = {}
    for file in files:
        partitions.setdefault(file.key.rpartition("/")[0], []).append(file)
    chosen = []
    for members in partitions.values():
        small = [file for file in members if file.kind == "cell"]
        chosen += [file for file in members if file.kind == "part"]
        chosen += small[:: -(-len(small) // TIMED_FILES) or 1]
    return chosen
