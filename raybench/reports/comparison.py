"""Compares our results with PruningBench's and the literature's: the drop in accuracy of cells that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raybench.reports.leaderboard import Board, Leaderboard, Ranked
from raybench.reports.literature import LiteratureMatch, compare_literature
from raybench.reports.published import STRATEGY, published
from raybench.reports.rules import besides_authors, rules

TOLERANCE = 1.0  # points: published cells are single runs, and seeds of one cell differ by up to about that


@dataclass(frozen=True)
class Compared:
    """One cell, ours and published. Metrics in percent; deltas and differences (ours minus published) in points.

    `inside` compares the deltas, since the dense models differ. The published delta is final minus base, also where
    the README prints another one (then `anomaly` says so).
    """

    dataset: str
    model: str
    speedup: float
    method: str
    protocol: str  # ours
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
    rules: str  # that ours was made by: published rules, ours, or differs in ...
    besides_authors: str | None  # what ours does otherwise than the method's paper


@dataclass(frozen=True)
class Comparison:
    """Every cell that both have, and how well the rankings of each board agree (Spearman)."""

    rows: tuple[Compared, ...]
    tolerance: float
    agreement: tuple[tuple[Board, int, float], ...]  # board, methods that both have, Spearman's correlation
    literature: tuple[LiteratureMatch, ...] = ()  # our results beside those of papers


def compare(found: Leaderboard, tolerance: float = TOLERANCE) -> Comparison:
    """Match our boards of strategy protected-global with the published ones by dataset, model, speed-up and method.

    Boards of every strategy are matched with the rows of the literature.
    """
    theirs = {(p["dataset"], p["model"], p["speedup_target"], p["method"]): p for p in published()}
    rows: list[Compared] = []
    agreement = []
    for board in found.boards:
        pairs = [
            (entry, theirs[key])
            for entry in board.entries
            if board.strategy == STRATEGY and (key := (board.dataset, board.model, board.speedup, entry.name)) in theirs
        ]
        trials = found.trials([entry.trial_id for entry, _ in pairs]) if pairs else {}
        rows += [_compared(board, entry, printed, tolerance, trials) for entry, printed in pairs]
        if len(pairs) > 2:
            ours, printed = [e.metric_final for e, _ in pairs], [p["metric_final"] for _, p in pairs]
            agreement.append((board, len(pairs), spearman(ours, printed)))
    return Comparison(tuple(rows), tolerance, tuple(agreement), compare_literature(found))


def boards() -> tuple[str, ...]:
    """Models with published figures, as text: ``resnet18 on cifar100 (2x, 4x, 8x)``."""
    found: dict[tuple[str, str], set[float]] = {}
    for row in published():
        found.setdefault((row["dataset"], row["model"]), set()).add(row["speedup_target"])
    return tuple(f"{m} on {d} ({', '.join(f'{s:g}x' for s in sorted(speeds))})" for (d, m), speeds in found.items())


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation. Equal values share their mean rank; 0 if one side has no variance."""
    a, b = _ranks(first), _ranks(second)
    mean = (len(a) + 1) / 2
    above = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    below = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return above / below if below else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def _compared(
    board: Board, entry: Ranked, printed: dict[str, Any], tolerance: float, trials: Mapping[str, Any]
) -> Compared:
    assert isinstance(board.speedup, float), "a published row was found by its speed-up"
    delta = printed["metric_final"] - printed["metric_base"]
    difference = entry.delta - delta
    return Compared(
        dataset=board.dataset,
        model=board.model,
        speedup=board.speedup,
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
        rules=rules(entry.importance, entry.regularizer, board.protocol, trial=trials.get(entry.trial_id)),
        besides_authors=besides_authors(entry.importance, entry.regularizer),
    )
