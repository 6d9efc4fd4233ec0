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


def best_blocks(
    scores: Sequence[np.ndarray],
    least: Sequence[int],
    cost: Callable[[np.ndarray, frozenset[int]], float],
    blocks: Sequence[Sequence[int]],
    goal: float,
) -> tuple[float, frozenset[int]]:
    """(Importance, blocks that go) of the best set of blocks and widths of the rest, by trying all of them.

    Args:
        scores: of the units of each group.
        least: units that each group keeps, if its block stays.
        cost: (widths, blocks that go) -> cost; the widths of groups that go with their blocks are 0.
        blocks: the groups inside each block.
        goal: the most that the network may cost.
    """
    best: tuple[float, frozenset[int]] = (-np.inf, frozenset())
    for count in range(len(blocks) + 1):
        for some in itertools.combinations(range(len(blocks)), count):
            gone = frozenset(some)
            inside = {g for b in gone for g in blocks[b]}
            ranges = (
                (0,) if g in inside else range(least[g], len(scores[g]) + 1) for g in range(len(scores))
            )  # fmt: skip
            for widths in itertools.product(*ranges):
                if cost(np.array(widths), gone) > goal:
                    continue
                kept = sum(float(np.sort(own)[len(own) - w :].sum()) for own, w in zip(scores, widths, strict=True))
                best = max(best, (kept, gone), key=lambda one: one[0])
    return best
