"""Rows as aligned lines of text, never folded: what is too wide for a terminal scrolls, and pipes get all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """A head and one line a row; None prints as a dash, floats with five digits, numbers to the right."""
    cells = [list(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [any(isinstance(row.get(name), (int, float)) for row in rows) for name in columns]
    return ["  ".join(map(_pad, row, widths, right)).rstrip() for row in cells]


def cell(value: Any) -> str:
    """One value as it is printed."""
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
