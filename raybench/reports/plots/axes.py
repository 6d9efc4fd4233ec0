"""Scales, ticks and the frame of a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raybench.reports.drawing.shapes import Line, Point, Shape, Text
from raybench.reports.drawing.text_width import text_width

SMALL = 8.0  # points: size of tick labels
WIDER = 1.17  # fonts of browsers against Helvetica


@dataclass(frozen=True)
class Axis:
    """One axis: the values at its ends, its place on the sheet, and its ticks."""

    low: float
    high: float
    start: float  # where `low` lies on the sheet
    end: float
    ticks: tuple[float, ...]
    label: str

    def __call__(self, value: float) -> float:
        """Where a value lies on the sheet."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def axis(values: Sequence[float], start: float, end: float, label: str, count: int = 5, pad: float = 0.06) -> Axis:
    """An axis that holds `values` with some air, and round ticks."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if not (high > low and math.isfinite(high - low)):
        low, high = low - 0.5, low + 0.5
    air = pad * (high - low)
    low, high = low - air, high + air
    return Axis(low, high, start, end, tuple(ticks(low, high, count)), label)


def ticks(low: float, high: float, count: int = 5) -> Iterator[float]:
    """Round values between `low` and `high`: multiples of 1, 2 or 5 times a power of ten.

    Example:
        >>> list(ticks(0.3, 4.2))
        [1.0, 2.0, 3.0, 4.0]
    """
    rough = (high - low) / max(count, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    place = math.ceil(low / step - 1e-9)
    while place * step <= high + 1e-9 * step:
        yield place * step
        place += 1


def tick_text(value: float) -> str:
    """A tick's number without needless digits."""
    return f"{value + 0.0:.6g}"


def frame(across: Axis, up: Axis) -> Iterator[Shape]:
    """Grid lines, tick labels, and the labels of both axes: the upper one lies flat above its axis."""
    for value in up.ticks:
        y = up(value)
        yield Line(((across.start, y), (across.end, y)), "grid", 0.7)
        yield Text(across.start - 4, y + 3, tick_text(value), SMALL, "soft", "end")
    for value in across.ticks:
        x = across(value)
        yield Line(((x, up.start), (x, up.start + 3)), "soft", 0.7)
        yield Text(x, up.start + 12, tick_text(value), SMALL, "soft", "middle")
    yield Line(((across.start, up.start), (across.end, up.start)), "soft", 0.7)
    yield Text((across.start + across.end) / 2, up.start + 25, across.label, SMALL, "soft", "middle")
    yield Text(across.start - 24, up.end - 8, up.label, SMALL, "soft")


Place = tuple[float, float, str]  # x, y, text


def placed_labels(wanted: Sequence[Place], marks: Sequence[Point], right: float, top: float) -> Iterator[Text]:
    """Labels beside points; one that would lie on a mark or on another label at every side is left out.

    Args:
        wanted: (x, y, text), the most important first.
        marks: what labels don't cover.
        right: where the drawing ends.
        top: where the plot begins.
    """
    taken = [(x - 2.5, y - 2.5, x + 2.5, y + 2.5) for x, y in marks]
    for x, y, text in wanted:
        wide = 1.1 * text_width(text, SMALL)
        sides = ((x + 6, y), (x - wide - 3, y - 9), (x + 3, y - 9), (x - 6 - wide, y), (x + 3, y + 9))
        for left, middle in sides:
            box = (left, middle - 4.5, left + wide, middle + 4.5)
            if box[0] < 36 or box[2] > right or box[1] < top or any(_overlap(box, other) for other in taken):
                continue
            taken.append(box)
            yield Text(left, middle + 2.8, text, SMALL)
            break


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
