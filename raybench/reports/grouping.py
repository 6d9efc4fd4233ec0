"""Groups rows and aggregates their columns: small tables in Python, large ones in Arrow, with the same results.

Arrow's own grouping imports pandas, which takes longer than a leaderboard of a thousand cells.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SMALL = 2000  # rows that Python groups faster than pandas is imported
Row = Mapping[str, Any]
Aggregation = tuple[str, str]  # (column, how), how a key of HOW


def grouped(
    rows: pa.Table | Sequence[Row], keys: Sequence[str], aggregations: Sequence[Aggregation]
) -> list[dict[str, Any]]:
    """One dict for each combination of values of `keys`, in no order to rely on.

    Args:
        rows: a table, or its rows.
        keys: columns that are equal in a group; None is a value of its own.
        aggregations: what is computed of the others, in which None doesn't count, but for `one`, the first row's value:
            `mean`, `stddev` (of a sample; None for one value), `min`, `max`, `count`, `count_distinct`, `distinct`.

    Returns:
        The keys, and an aggregation ``("seed", "count")`` as ``seed_count``.

    Example:
        >>> grouped([{"a": 1, "b": 2.0}, {"a": 1, "b": 4.0}], ["a"], [("b", "mean"), ("b", "count")])
        [{'a': 1, 'b_mean': 3.0, 'b_count': 2}]
    """
    if isinstance(rows, pa.Table):
        if rows.num_rows > SMALL:
            spread = pc.VarianceOptions(ddof=1)
            asked = [(name, how, spread) if how == "stddev" else (name, how) for name, how in aggregations]
            return rows.group_by(list(keys), use_threads=False).aggregate(asked).to_pylist()
        rows = rows.select(list(dict.fromkeys([*keys, *(name for name, _ in aggregations)]))).to_pylist()
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        dict(zip(keys, key, strict=True))
        | {f"{name}_{how}": HOW[how]([row[name] for row in same]) for name, how in aggregations}
        for key, same in groups.items()
    ]


def _known(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[Any]) -> float | None:
    known = _known(values)
    return reduce(operator.add, known) / len(known) if known else None  # `sum` rounds otherwise in later Pythons


def _spread(values: Sequence[Any]) -> float | None:
    known, mean = _known(values), _mean(values)
    if mean is None or len(known) < 2:
        return None
    return math.sqrt(reduce(operator.add, [(value - mean) ** 2 for value in known]) / (len(known) - 1))


HOW: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "one": lambda values: values[0],
    "mean": _mean,
    "stddev": _spread,
    "min": lambda values: min(_known(values), default=None),
    "max": lambda values: max(_known(values), default=None),
    "count": lambda values: len(_known(values)),
    "count_distinct": lambda values: len(set(_known(values))),
    "distinct": lambda values: list(dict.fromkeys(_known(values))),
}
