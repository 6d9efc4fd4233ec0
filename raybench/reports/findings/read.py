"""Findings of a store."""

from __future__ import annotations

from raybench.errors import UserError
from raybench.reports import cells
from raybench.reports.findings.answer import Finding
from raybench.reports.findings.find import findings
from raybench.reports.leaderboard import trials_of
from raybench.reports.unfinished import no_results
from raybench.results.store import Store


def read_findings(store: Store) -> list[Finding]:
    """Every finding.

    Raises:
        UserError: the store has no rows.
    """
    table = store.table(cells.COLUMNS)
    if not table.num_rows:
        raise UserError(no_results(store.storage))
    return findings(cells.frame(table, trials_of(store)))
