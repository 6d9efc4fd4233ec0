"""The most importance that a network can keep under a cost, by trying every combination of widths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np


def best_widths(
    scores: Sequence[np.ndarray], least: Sequence[int], cost: Callable[[np.ndarray], float], goal: float
) -> tuple[float, tuple[int, ...]]:
    """(Importance, widths) of the best combination with cost(widths) <= goal; each group keeps its best units."""
    best = (-np.inf, ())
    for widths in itertools.product(*(range(low, len(own) + 1) for low, own in zip(least, scores, strict=True))):
        if cost(np.array(widths)) <= goal:
            kept = sum(float(np.sort(own)[len(own) - width :].sum()) for own, width in zip(scores, widths, strict=True))
            best = max(best, (kept, widths))
    return best
