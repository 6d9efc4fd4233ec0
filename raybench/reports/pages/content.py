"""Everything that the pages show, read once from a store: it may grow while the pages are made."""

from __future__ import annotations

from collections.abc import Mapping
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
from raybench.reports.leaderboard import COLUMNS, Leaderboard, Query, trials_of
from raybench.reports.recipe_notes import recipe_notes
from raybench.results.store import ALL_COLUMNS, Store
from raybench.sweep.target import ASKED

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
        recipes: recipe -> in what it differs from others of its name.
    """

    source: str
    table: pa.Table
    rows: pd.DataFrame
    by_speedup: Leaderboard
    average: Leaderboard
    tracked: Leaderboard
    recipes: Mapping[str, str]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many rows are ok, failed and skipped."""
        found = {one["values"]: one["counts"] for one in pc.value_counts(self.table["status"]).to_pylist()}
        return {status: found.get(status, 0) for status in ("ok", "failed", "skipped")}

    @cached_property
    def missing(self) -> list[dict[str, Any]]:
        """Every failed and skipped cell."""
        names = ["trial_id", "status", "method", "model", "dataset", "strategy", *ASKED, "seed",
                 "stage", "error_type", "error_message", "reason"]  # fmt: skip
        rows = self.table.filter(pc.not_equal(self.table["status"], "ok")).select(names).to_pylist()
        return sorted(rows, key=lambda row: (row["status"], row["model"], row["method"], row["trial_id"]))

    @cached_property
    def found(self) -> list[Finding]:
        """The paper's claims, checked on this store."""
        return findings(self.rows)

    @cached_property
    def compared(self) -> Comparison:
        """Our figures beside published ones."""
        return compare(self.tracked, TOLERANCE)

    def distinct(self, name: str) -> list[Any]:
        """Sorted distinct values of a column."""
        return sorted(pc.unique(self.table[name].drop_null()).to_pylist())


def read_content(store: Store) -> Content:
    """Read a store. Nothing is refused: an empty one, or one with failures only, makes pages that state it."""
    wanted = [name for name in ALL_COLUMNS if name not in WIDE]
    dotted = [name for name in COLUMNS if "." in name]
    table = store.table([*wanted, *dotted]).combine_chunks()
    trials = trials_of(store)
    ranked = table.select(list(COLUMNS))
    by_speedup, average, tracked = [
        replace(Leaderboard.of(ranked, query, trials), source=store.storage.url)
        for query in (Query(track="all"), Query(track="all", speedup="average"), Query())
    ]
    frame, notes = cells.frame(table, trials), recipe_notes(table, trials)
    return Content(store.storage.url, table, frame, by_speedup, average, tracked, notes)
