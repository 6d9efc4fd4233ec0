"""What a question to the data gets as an answer: a sentence, and the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
