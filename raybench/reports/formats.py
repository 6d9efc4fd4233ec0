"""How the pages write numbers: a dash for what doesn't apply, n/m for a timing that wasn't taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raybench.reports import text
from raybench.reports.board_text import NOT_MEASURED, millions
from raybench.reports.leaderboard import Ranked

DASH = "–"


def fixed(digits: int) -> Callable[[Any], str]:
    """A filter that writes so many decimals.

    Example:
        >>> fixed(2)(97.125), fixed(1)(None)
        ('97.12', '–')
    """
    return lambda value: DASH if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference with its sign; a zero is never negative."""
    return DASH if value is None else text.signed(value)


def three_digits(value: float | None) -> str:
    """Three digits, without an exponent for what people read as seconds.

    Example:
        >>> three_digits(1234.5), three_digits(0.01234)
        ('1234', '0.0123')
    """
    if value is None:
        return DASH
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plain(value: Any) -> str:
    """A value of a finding's table."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def timing(value: float | None, entry: Ranked) -> str:
    """A time, or why there is none."""
    return (NOT_MEASURED if entry.timing_reason else DASH) if value is None else three_digits(value)


FILTERS: dict[str, Callable[..., str]] = {
    "f1": fixed(1), "f2": fixed(2), "f4": fixed(4), "signed": signed, "g3": three_digits, "millions": millions,
    "plain": plain,
}  # fmt: skip
