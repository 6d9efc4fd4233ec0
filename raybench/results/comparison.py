"""Ours beside PruningBench's: the drop in accuracy of every cell that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raybench.results.leaderboard import Board, Entry, Leaderboard
from raybench.results.published import PROTOCOL, STRATEGY, published

TOLERANCE = 1.0  # points: published cells are single runs, and seeds of one cell differ by up to about that


@dataclass(frozen=True)
class Compared:
    """One cell of ours and of theirs. Metrics in percent, deltas and differences in points, ours minus theirs.

    `inside` judges the deltas, since the dense models are not the same ones. Theirs is final minus base, also where
    the README prints another delta (`anomaly` says so).
    """

    dataset: str
    model: str
    speedup: float
    method: str
    protocol: str  # ours; only `pruningbench` follows the published rules
    recipe: str
    n: int
    base: float
    final: float
    spread: float | None
    delta: float
    kept: float  # params, percent
    rank: int
    published_base: float
    published_final: float
    published_delta: float
    published_kept: float
    published_rank: int
    difference: float
    inside: bool
    anomaly: str | None


@dataclass(frozen=True)
class Comparison:
    """Every cell that both have, and how well the rankings of each board agree."""

    rows: tuple[Compared, ...]
    tolerance: float
    agreement: tuple[tuple[Board, int, float], ...]  # board, methods that both have, Spearman's correlation


def compare(found: Leaderboard, tolerance: float = TOLERANCE) -> Comparison:
    """Match our boards of strategy protected-global with the published ones by dataset, model, speed-up and method."""
    theirs = {(p["dataset"], p["model"], p["speedup_target"], p["method"]): p for p in published()}
    rows: list[Compared] = []
    agreement = []
    for board in found.boards:
        pairs = [
            (entry, theirs[key])
            for entry in board.entries
            if board.strategy == STRATEGY
            and (key := (board.dataset, board.model, board.speedup, _name(entry))) in theirs
        ]
        rows += [_compared(board, entry, printed, tolerance) for entry, printed in pairs]
        if len(pairs) > 2:
            ours, printed = [e.metric_final for e, _ in pairs], [p["metric_final"] for _, p in pairs]
            agreement.append((board, len(pairs), spearman(ours, printed)))
    return Comparison(tuple(rows), tolerance, tuple(agreement))


def boards() -> tuple[str, ...]:
    """Datasets, models and speed-ups that have published figures, in words."""
    found: dict[tuple[str, str], set[float]] = {}
    for row in published():
        found.setdefault((row["dataset"], row["model"]), set()).add(row["speedup_target"])
    return tuple(f"{m} on {d} ({', '.join(f'{s:g}x' for s in sorted(speeds))})" for (d, m), speeds in found.items())


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing their mean rank; 0 without variance."""
    a, b = _ranks(first), _ranks(second)
    mean = (len(a) + 1) / 2
    above = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    below = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return above / below if below else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def _name(entry: Entry) -> str:
    return "+".join(filter(None, (entry.importance, entry.regularizer)))


def _compared(board: Board, entry: Entry, printed: dict[str, Any], tolerance: float) -> Compared:
    delta = printed["metric_final"] - printed["metric_base"]
    difference = entry.delta - delta
    return Compared(
        dataset=board.dataset,
        model=board.model,
        speedup=float(board.speedup),
        method=entry.method,
        protocol=board.protocol,
        recipe=board.recipe,
        n=entry.n,
        base=entry.metric_base,
        final=entry.metric_final,
        spread=entry.spread,
        delta=entry.delta,
        kept=100 * entry.params_kept,
        rank=entry.rank,
        published_base=printed["metric_base"],
        published_final=printed["metric_final"],
        published_delta=round(delta, 3),
        published_kept=printed["params_pct"],
        published_rank=printed["rank"],
        difference=difference,
        inside=round(abs(difference), 6) <= tolerance,
        anomaly=printed["anomaly"],
    )


def is_comparable(row: Compared) -> bool:
    """Whether our number was made under the published rules."""
    return row.protocol == PROTOCOL
