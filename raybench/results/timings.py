"""What earlier cells cost, for the estimate of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_CELL = ("seconds_prune", "seconds_finetune", "seconds_measure")
_SHARED = {"base": "seconds_base", "sparsify": "seconds_sparsify", "select": "seconds_select"}
TIMED = ("dataset", "model", "recipe", "resumed_from", *_SHARED.values(), *_CELL)


def mean_seconds(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], float]:
    """(kind, dataset, model, recipe) -> mean seconds; a resumed cell tells half and is left out."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for row in rows:
        where = (row["dataset"], row["model"], row["recipe"])
        for kind, column in _SHARED.items():
            if row[column] is not None:
                found.setdefault((kind, *where), []).append(row[column])
        parts = [row[column] for column in _CELL]
        if not row["resumed_from"] and None not in parts:
            found.setdefault(("cell", *where), []).append(sum(parts))
    return {key: sum(values) / len(values) for key, values in sorted(found.items())}
