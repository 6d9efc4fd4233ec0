"""The matrix of all pairs: mean difference of the row's method to the column's, marked where it is significant."""

from __future__ import annotations

from raybench.errors import counted
from raybench.reports.drawing.shapes import Box, Drawing, Shape, Text
from raybench.reports.drawing.text_width import shortened, text_width
from raybench.reports.plots.axes import WIDER
from raybench.reports.statistics.win_matrix import LEVEL, WinMatrix
from raybench.reports.text import signed

CELL = 22.0


def matrix(found: WinMatrix, title: str, *, width: float = 480) -> Drawing:
    """One field a pair: wins minus losses as colour, the mean difference as text, a star for p < 0.05."""
    names, count = found.methods, len(found.methods)
    left = min(0.3 * width, WIDER * max((text_width(name, 8) for name in names), default=0) + 8)
    field = (width - left) / max(count, 1)
    high = min(CELL, field)
    top = min(120.0, WIDER * max((text_width(name, 8) for name in names), default=0) + 8)
    shapes: list[Shape] = []
    for row, first in enumerate(names):
        y = top + high * row
        shapes.append(Text(left - 5, y + high / 2 + 3, shortened(first, 8, (left - 6) / WIDER), 8, "ink", "end"))
        x = left + field * (row + 0.5) + 3
        shapes.append(Text(x, top - 5, shortened(first, 8, (top - 8) / WIDER), 8, "ink", turned=True))
        for column, second in enumerate(names):
            if first != second:
                shapes += _field(found, first, second, left + field * column, y, field, high)
    label = {True: f"{found.unit}; * p < {LEVEL:g} (Holm)", False: f"{found.unit}; no p-values"}[found.reason is None]
    note = f"row minus column, points; colour: wins of the row in {found.units} {label}"
    shapes.append(Text(left, top + high * count + 13, note, 8, "soft"))
    about = f"{counted(len(found.pairs), 'pair')}. {found.reason or ''}".strip()
    return Drawing(width, top + high * count + 20, tuple(shapes), title, about)


def _field(found: WinMatrix, first: str, second: str, x: float, y: float, width: float, high: float) -> list[Shape]:
    pair = found.between(first, second)
    share = (pair.wins - pair.losses) / max(found.units, 1)
    significant = pair.adjusted is not None and pair.adjusted < LEVEL
    p = f", p = {pair.adjusted:.3g}" if pair.adjusted is not None else ""
    tip = f"{first} - {second}\n{signed(pair.mean)}; {pair.wins} won, {pair.losses} lost{p}"
    colour, opacity = ("good" if share > 0 else "bad", round(0.1 + 0.35 * abs(share), 1)) if share else ("band", 1.0)
    shapes: list[Shape] = [Box(x + 0.5, y + 0.5, width - 1, high - 1, colour, opacity, tip)]
    text = f"{round(pair.mean, 1) + 0.0:+.1f}{'*' if significant else ''}"
    size = 7.0 if text_width(text, 7) < width - 1 else 5.0
    if text_width(text, size) < width + 2:
        shapes.append(Text(x + width / 2, y + high / 2 + 2.5, text, size, "ink", "middle"))
    return shapes
