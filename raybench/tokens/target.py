"""How many tokens each block removes for a target speed-up: along a method's own schedule, then token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from raybench.errors import NotSupported
from raybench.tokens.cost import TokenCost
from raybench.tokens.reducer import TokenReducer

CLOSE = 0.001  # single tokens are moved until the target is met this well, or nothing comes nearer
ENOUGH = 0.005  # a miss above this has a reason
HALVINGS = 40  # of the interval of amounts


@dataclass(frozen=True)
class Found:
    """Tokens that each block removes, and why the target was missed by more than 0.5 %."""

    removed: tuple[int, ...]
    reason: str | None


def find_counts(reducer: TokenReducer, cost: TokenCost, target: float) -> Found:
    """The counts nearest to `target`, the speed-up in MACs.

    The method's schedule gives counts for an amount between 0 and 1. The amount whose speed-up is nearest is found by
    halving, then single tokens are moved to, from and between blocks while that comes nearer.

    Args:
        reducer: the method.
        cost: of the network.
        target: base MACs / MACs, above 1.

    Returns:
        One count for each block, and a reason if they miss the target by more than 0.5 %.

    Raises:
        NotSupported: the method has no block in this network in front of which tokens could go.
    """
    if not reducer.blocks(cost.shape):
        raise NotSupported(f"{type(reducer).__name__} removes no tokens from a network of {cost.shape.depth} blocks")

    def error(removed: tuple[int, ...]) -> float:
        return abs(cost.macs_base / cost.macs(reducer, removed) / target - 1)

    most = reducer.removed(cost.shape, 1.0)
    fastest = cost.macs_base / cost.macs(reducer, most)
    best = min(_around(reducer, cost, target), key=error)
    while error(best) > CLOSE:
        nearest = min(_moved(reducer, cost, best), key=error, default=best)
        if error(nearest) >= error(best):
            break
        best = nearest
    if error(best) <= ENOUGH:
        return Found(best, None)
    if target > fastest:
        return Found(best, f"floor: {type(reducer).__name__} leaves at least so many tokens; at most {fastest:.2f}x")
    return Found(best, "granularity")


def _around(reducer: TokenReducer, cost: TokenCost, target: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The counts of the method's schedule that are just below the target, and just above."""
    goal, low, high = cost.macs_base / target, 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        meets = cost.macs(reducer, reducer.removed(cost.shape, middle)) <= goal
        low, high = (low, middle) if meets else (middle, high)
    return reducer.removed(cost.shape, low), reducer.removed(cost.shape, high)


def _moved(reducer: TokenReducer, cost: TokenCost, removed: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All counts that one token more or less in one block gives, or one that another block removes instead."""
    blocks = reducer.blocks(cost.shape)
    changes = [{i: step} for i in blocks for step in (1, -1)]
    changes += [{i: 1, j: -1} for i in blocks for j in blocks if i != j]
    for change in changes:
        found = tuple(count + change.get(i, 0) for i, count in enumerate(removed))
        if allowed(reducer, cost, found):
            yield found


def allowed(reducer: TokenReducer, cost: TokenCost, removed: tuple[int, ...]) -> bool:
    """Whether the method can remove so many tokens in each block."""
    return all(
        0 <= gone <= max(0, reducer.most(cost.shape, patches))
        for gone, patches in zip(removed, cost.shape.before(removed), strict=True)
    )
