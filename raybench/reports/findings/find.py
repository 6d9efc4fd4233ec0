"""Every finding, for a store and for the published rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from raybench.reports.cells import published_frame
from raybench.reports.findings import architectures, consistency, costs, regularizers, sizes, strategies, winners
from raybench.reports.findings.answer import Answer, Finding

QUESTIONS: tuple[tuple[str, str, Callable[[pd.DataFrame], Answer]], ...] = tuple(
    (module.TITLE, module.CLAIM, module.answer)
    for module in (winners, consistency, strategies, regularizers, sizes, costs, architectures)
)


def findings(rows: pd.DataFrame) -> list[Finding]:
    """Answer every question.

    Args:
        rows: finished cells, as `raybench.reports.cells.frame` makes them.
    """
    return [
        Finding(title, claim, printed, _answer(ask, rows))
        for (title, claim, ask), printed in zip(QUESTIONS, published_answers(), strict=True)
    ]


@cache
def published_answers() -> tuple[Answer, ...]:
    """The answers of the 339 published rows."""
    rows = published_frame()
    return tuple(_answer(ask, rows) for _, _, ask in QUESTIONS)


def _answer(ask: Callable[[pd.DataFrame], Answer], rows: pd.DataFrame) -> Answer:
    found = ask(rows) if len(rows) else Answer("No cell has finished.")
    plain = tuple(
        tuple(value.item() if isinstance(value, np.generic) else value for value in row) for row in found.rows
    )
    return replace(found, rows=plain)
