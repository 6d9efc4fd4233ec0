"""Findings of a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raybench.errors import UserError
from raybench.reports import cells
from raybench.reports.findings.answer import Finding
from raybench.reports.findings.find import findings
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

    def trials(ids: Sequence[str]) -> Mapping[str, Any]:
        rows = store.table(["trial_id", "trial"]).to_pylist()
        return {row["trial_id"]: json.loads(row["trial"]) for row in rows if row["trial_id"] in set(ids)}

    return findings(cells.frame(table, trials))
