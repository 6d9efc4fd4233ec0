"""How many cells the axes of a sweep make, counted without listing them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from raybench.sweep.inclusion import VARYING

VALUES = ("strategies", "amounts", "seeds")  # axes that an entry may override; the method's word counts first


def cells_of(sweep: Any) -> int:
    """The number of cells of `sweep`, those of `include` with them, before `exclude` and before doubles are dropped."""
    return sum(_variants(sweep, extra) * _product(sweep, extra) for extra in (None, *sweep.include))


def _variants(sweep: Any, extra: Any) -> int:
    """How many variants of the sweep the cells of `extra` are in."""
    return math.prod(max(1, len((extra and getattr(extra, axis)) or getattr(sweep, axis))) for axis in VARYING)


def _product(sweep: Any, extra: Any) -> int:
    """The product of the axes; those that `extra` has replace the sweep's."""
    entries = [
        _kinds((extra and getattr(extra, axis)) or getattr(sweep, axis)) for axis in ("methods", "models", "datasets")
    ]
    own = {axis: _length(extra, axis) if extra else 0 for axis in VALUES}
    count = 0
    for method, methods in entries[0].items():
        for model, models in entries[1].items():
            for dataset, datasets in entries[2].items():
                lengths = [
                    own[axis] or next((n for n in (method[i], model[i], dataset[i]) if n), _length(sweep, axis))
                    for i, axis in enumerate(VALUES)
                ]
                count += methods * models * datasets * math.prod(lengths)
    return count


def _kinds(entries: Any) -> Counter[tuple[int, ...]]:
    """How many entries have how many values of their own on each axis; 0 where they have none."""
    return Counter(tuple(_length(entry, axis) for axis in VALUES) for entry in entries)


def _length(holder: Any, axis: str) -> int:
    """How many values the holder has on the axis; speed-ups and other targets are one axis."""
    if axis != "amounts":
        return len(getattr(holder, axis) or ())
    targets = holder.targets
    return len(holder.speedups or ()) + (len(targets.amounts) if targets else 0)
