"""The tables of a report as files to take home."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raybench.reports.leaderboard_rows import rows as leaderboard_rows
from raybench.reports.leaderboard_rows import table as leaderboard_table
from raybench.reports.pages.content import Content
from raybench.reports.pages.rank_views import ScopeView
from raybench.results.encoding import parquet_bytes


@dataclass(frozen=True)
class Table:
    """One table to download."""

    name: str
    about: str
    rows: Sequence[Mapping[str, Any]] | None  # None: the trials, which have blocks of their own
    table: pa.Table
    parquet: str = ""

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)


def report_tables(content: Content, scopes: Sequence[ScopeView], single: bool) -> list[Table]:
    """Every table; with `single` the Parquet files are in the page."""
    ranked = [row for scope in scopes for row in scope.rank_rows]
    pairs = [row for scope in scopes for row in scope.pair_rows]
    compared = [asdict(row) for row in content.compared.rows]
    papers = [_flat(asdict(match)) for match in content.compared.literature]
    findings = [
        {"finding": f.title, "claim": f.claim, "published": f.published.sentence, "store": f.ours.sentence}
        for f in content.found
    ]
    boards_, failed = leaderboard_rows(content.tracked), content.missing
    wide = [name for name in content.table.column_names if name not in ("curve", "layers")]
    trials = content.table.select(wide)
    found = [
        Table("boards", "a method in one ranking", boards_, leaderboard_table(content.tracked)),
        Table("trials", "a cell; curves and layers are in the store", None, trials),
        Table("ranks", "a method in one ranking over models, with the interval of its rank", ranked, _arrow(ranked)),
        Table("pairs", "two methods in such a ranking", pairs, _arrow(pairs)),
        Table("failures", "a failed or skipped cell", failed, _arrow(failed)),
        Table("compared", "a cell with a figure of PruningBench", compared, _arrow(compared)),
        Table("papers", "a cell with a figure of a paper", papers, _arrow(papers)),
        Table("findings", "a finding", findings, _arrow(findings)),
    ]
    return [Table(t.name, t.about, t.rows, t.table, _parquet_address(t, single)) for t in found]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A match with a paper's row as one row: `theirs` becomes columns `their_...`."""
    own = {name: value for name, value in row.items() if name != "theirs"}
    return own | {f"their_{name}": value for name, value in row["theirs"].items()}


def _parquet_address(one: Table, single: bool) -> str:
    if not single:
        return f"data/{one.name}.parquet"
    return f"data:application/octet-stream;base64,{base64.b64encode(parquet_bytes(one.table)).decode()}"


def _arrow(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows])
