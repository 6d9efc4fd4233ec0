"""Figures of pruning papers and their code, one row each, and the match of our results with them.

The rows stand beside PruningBench's (`published.py`) but are not one experiment: networks, training and the choice of
the printed epoch differ from source to source. `selection` says how that epoch was chosen, where the source says it.
A row with a `protocol` was made by torch-pruning's public loop, which our protocol of that name follows. Accuracy in
percent. Where the printed difference isn't the difference of the printed figures both are kept and `anomaly` says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from raybench.reports.leaderboard import Board, Leaderboard, Ranked
from raybench.reports.rules import rules

NEAR = 0.05  # relative difference of two speed-ups that are compared
_NUMBERS = ("base", "pruned", "printed_difference", "difference", "speedup")


@dataclass(frozen=True)
class LiteratureRow:
    """One printed result. Metrics in percent, differences in points; None where the source doesn't say."""

    year: int  # of the paper
    method: str | None  # our name, where we have the method
    authors_method: str
    dataset: str
    model: str
    strategy: str | None  # ours that corresponds, for rows of torch-pruning's loop
    protocol: str | None  # the same
    metric_name: str
    base: float | None
    pruned: float | None  # after fine-tuning
    printed_difference: float | None
    difference: float | None  # of the printed figures: pruned minus base
    speedup: float | None
    speedup_of: str | None  # MACs, FLOPs or throughput
    printed_speedup: str | None  # how the source states the size of the cut
    selection: str | None  # which epoch's accuracy is printed
    source: str
    note: str | None
    anomaly: str | None


@dataclass(frozen=True)
class LiteratureMatch:
    """One of our results beside a row of the literature. `difference` is our drop minus theirs, in points."""

    dataset: str
    model: str
    method: str
    strategy: str
    protocol: str
    recipe: str
    speedup: float
    n: int
    base: float
    final: float
    spread: float | None
    delta: float
    rules: str
    difference: float | None
    theirs: LiteratureRow


@cache
def literature() -> tuple[LiteratureRow, ...]:
    """Every row of literature.csv."""
    text = (files("raybench.reports") / "literature.csv").read_text(encoding="utf-8")
    return tuple(_row(line) for line in csv.DictReader(io.StringIO(text)))


def compare_literature(found: Leaderboard) -> tuple[LiteratureMatch, ...]:
    """Match our results by dataset, model, method, metric, and a MACs speed-up within 5 % of the printed one."""
    matches = [(board, entry, row) for board in found.boards for entry, row in _pairs(board)]
    trials = found.trials([entry.trial_id for _, entry, _ in matches]) if matches else {}
    return tuple(_match(board, entry, row, trials.get(entry.trial_id)) for board, entry, row in matches)


def _pairs(board: Board) -> Iterator[tuple[Ranked, LiteratureRow]]:
    where = (board.dataset, board.model, board.metric_name)
    rows = [row for row in literature() if (row.dataset, row.model, row.metric_name) == where]
    for entry in board.entries:
        for row in rows:
            if row.method == entry.name and _is_near(entry.speedup, row):
                yield entry, row


def _is_near(speedup: float, row: LiteratureRow) -> bool:
    if row.speedup is None or row.speedup_of not in ("MACs", "FLOPs"):
        return False
    return abs(speedup / row.speedup - 1) <= NEAR


def _match(board: Board, entry: Ranked, row: LiteratureRow, trial: Mapping[str, Any] | None) -> LiteratureMatch:
    theirs = row.printed_difference if row.difference is None else row.difference
    return LiteratureMatch(
        dataset=board.dataset,
        model=board.model,
        method=entry.method,
        strategy=entry.strategy,
        protocol=board.protocol,
        recipe=board.recipe,
        speedup=entry.speedup,
        n=entry.n,
        base=entry.metric_base,
        final=entry.metric_final,
        spread=entry.spread,
        delta=entry.delta,
        rules=_rules(board, entry, row, trial),
        difference=None if theirs is None else entry.delta - theirs,
        theirs=row,
    )


def _rules(board: Board, entry: Ranked, row: LiteratureRow, trial: Mapping[str, Any] | None) -> str:
    """Rules of our result, seen from the row: only a row of torch-pruning's loop can have been made by the same."""
    if row.protocol != board.protocol:
        return "ours"
    elsewhere = () if row.strategy == entry.strategy else (f"the strategy (theirs: {row.strategy})",)
    return rules(entry.importance, entry.regularizer, board.protocol, elsewhere, trial)


def _row(line: dict[str, str]) -> LiteratureRow:
    values: dict[str, Any] = {name: text or None for name, text in line.items()}
    numbers = {name: float(line[name]) for name in _NUMBERS if line[name]}
    return LiteratureRow(**{**values, **numbers, "year": int(line["year"])})
