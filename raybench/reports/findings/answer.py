"""What a question to the data gets as an answer: a sentence, and the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raybench.reports.statistics.intervals import Difference


@dataclass(frozen=True)
class Answer:
    """A sentence that says what the data supports and what not, and a table."""

    sentence: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One question, answered for the published rows and for a store."""

    title: str
    claim: str  # of the paper, in our words
    published: Answer
    ours: Answer


def figures(found: Difference) -> tuple[float, float | str, float | str, str]:
    """Mean, both ends of the interval, and verdict, as a table has them."""
    ends = ("–", "–") if found.low is None or found.high is None else (round(found.low, 2), round(found.high, 2))
    return round(found.mean, 2), *ends, found.verdict or "too few models"
