"""Everything that the pages show, read once from a store: it may grow while the pages are made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raybench.reports import cells
from raybench.reports.comparison import TOLERANCE, Comparison, compare
from raybench.reports.findings.answer import Finding
from raybench.reports.findings.find import findings
from raybench.reports.leaderboard import COLUMNS, Leaderboard, Query, Trials
from raybench.results.store import ALL_COLUMNS, Store

WIDE = ("kept", "trial", "row_sha256")  # not read: a quarter of a store, and no page shows them


@dataclass(frozen=True, eq=False)
class Content:
    """The rows of a store, ranked.

    Attributes:
        source: address of the store.
        table: every row, with all columns but WIDE.
        rows: finished rows with their labels, as `cells.frame` makes them.
        by_speedup: one ranking for each speed-up, criteria and regularizers in one.
        average: the same over all speed-ups.
        tracked: rankings of criteria and of regularizers, as `raybench leaderboard` prints them.
    """

    source: str
    table: pa.Table
    rows: pd.DataFrame
    by_speedup: Leaderboard
    average: Leaderboard
    tracked: Leaderboard

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many rows are ok, failed and skipped."""
        found = dict(zip(*(list(x) for x in _value_counts(self.table["status"])), strict=True))
        return {status: found.get(status, 0) for status in ("ok", "failed", "skipped")}

    @cached_property
    def found(self) -> list[Finding]:
        """What the store says to the paper's claims."""
        return findings(self.rows)

    @cached_property
    def compared(self) -> Comparison:
        """Our figures beside published ones."""
        return compare(self.tracked, TOLERANCE)

    def distinct(self, name: str) -> list[Any]:
        """Sorted distinct values of a column."""
        return sorted(pc.unique(self.table[name].drop_null()).to_pylist())


def read_content(store: Store) -> Content:
    """Read a store. Nothing is refused: an empty one, or one with failures only, makes pages that say so."""
    wanted = [name for name in ALL_COLUMNS if name not in WIDE]
    dotted = [name for name in (*COLUMNS, *cells.COLUMNS) if "." in name]
    table = store.table([*wanted, *dotted]).combine_chunks()
    trials = _trials(store)
    ranked = table.select(list(dict.fromkeys((*COLUMNS,))))
    boards = [
        replace(Leaderboard.of(ranked, query, trials), source=store.storage.url)
        for query in (Query(track="all"), Query(track="all", speedup="average"), Query())
    ]
    return Content(store.storage.url, table, cells.frame(table, trials), *boards)


def _trials(store: Store) -> Trials:
    """A function from trial ids to trials; the wide column `trial` is read at its first call."""
    kept: dict[str, str] = {}

    def chosen(ids: Sequence[str]) -> Mapping[str, Any]:
        if not set(ids) <= kept.keys():
            table = store.table(["trial_id", "trial"])
            kept.update(zip(table["trial_id"].to_pylist(), table["trial"].to_pylist(), strict=True))
        return {one: json.loads(kept[one]) for one in ids}

    return chosen


def _value_counts(column: pa.ChunkedArray) -> tuple[list[Any], list[int]]:
    counted = pc.value_counts(column)
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()
