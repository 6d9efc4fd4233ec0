"""Mean metric of each method with the margin below which it is tied, and the critical-difference picture."""

from __future__ import annotations

from raybench.reports.drawing.shapes import Box, Drawing, Line, Mark, Shape, Text
from raybench.reports.drawing.text_width import shortened, text_width
from raybench.reports.plots.axes import SMALL, WIDER, Axis, tick_text, ticks
from raybench.reports.statistics.critical_difference import CriticalDifference
from raybench.reports.statistics.rank_intervals import RankedMethod, RankIntervals

ROW = 15.0
SMALLEST = 7.0  # points: size of names that would be cut at 9


def ranks(found: RankIntervals, title: str, *, width: float = 360) -> Drawing:
    """One row a method: its rank as a mark, the interval of its rank as a line; the tied group is coloured."""
    count = len(found.methods)
    widest = WIDER * max((text_width(m.method, 1, bold=True) for m in found.methods), default=0)
    size = max(SMALLEST, min(9.0, (0.48 * width - 10) / widest)) if widest else 9.0  # of the names
    left = min(0.48 * width, size * widest + 10)
    bottom = 12 + ROW * count
    step = max(1, round(count / 10))
    across = Axis(0.5, count + 0.5, left, width - 42, tuple(float(n) for n in range(1, count + 1, step)), "rank")
    shapes: list[Shape] = []
    for value in across.ticks:
        shapes.append(Line(((across(value), 8), (across(value), bottom)), "grid", 0.7))
        shapes.append(Text(across(value), bottom + 10, tick_text(value), SMALL, "soft", "middle"))
    for place, one in enumerate(found.methods):
        y = 8 + ROW * (place + 0.5)
        colour = "good" if one.tied else "c7" if one.tied is False else "c0"
        tip = f"{one.method}\nmean {one.mean:.2f}\nrank {one.rank}"
        if one.low is not None and one.high is not None:
            shapes.append(Line(((across(one.low), y), (across(one.high), y)), colour, 1.8))
            tip += f", interval {one.low} to {one.high}"
        shapes.append(Mark(across(one.rank), y, colour, size=3.4, tip=tip))
        shapes.append(Text(left - 8, y + 3, _name(one, size, left - 8), size, "ink", "end", bold=bool(one.tied)))
        shapes.append(Text(width - 2, y + 3, f"{one.mean:.2f}", 9, "soft", "end"))
    shapes.append(Text((across.start + across.end) / 2, bottom + 22, "rank (95 % intervals)", SMALL, "soft", "middle"))
    rows = "; ".join(f"{m.method}: rank {m.rank}" + (f" ({m.low} to {m.high})" if m.low else "") for m in found.methods)
    return Drawing(width, bottom + 28, tuple(shapes), title, f"{rows}. {found.reason or ''}".strip())


def _name(one: RankedMethod, size: float, width: float) -> str:
    """The name of a method, cut where it is too wide."""
    bold = bool(one.tied)
    fits = WIDER * text_width(one.method, size, bold=bold) <= width + 0.5
    return one.method if fits else shortened(one.method, size * (1.07 if bold else 1), width / WIDER)


def critical_picture(found: CriticalDifference, title: str, *, width: float = 480) -> Drawing:
    """Mean ranks on a line, names below it on both sides, and bars that join what can't be told apart."""
    count = len(found.methods)
    bars = len(found.groups)
    half = (count + 1) // 2
    top, side = 44.0, min(0.36 * width, WIDER * max((text_width(name, 9) for name in found.methods), default=0) + 10)
    low, high = 1.0, float(max(count, 2))
    across = Axis(low, high, side, width - side, tuple(ticks(low, high, 8)), "mean rank")
    below = top + 10 + 7 * bars
    shapes: list[Shape] = [Line(((across.start, top), (across.end, top)), "ink", 1)]
    for value in across.ticks:
        shapes.append(Line(((across(value), top - 4), (across(value), top)), "ink", 0.8))
        shapes.append(Text(across(value), top - 7, tick_text(value), SMALL, "soft", "middle"))
    if found.critical is not None:
        end = min(across(low + found.critical), width - 4)
        shapes.append(Line(((across(low), 14), (end, 14)), "ink", 1.6))
        shapes.append(Text(across(low), 9, f"critical difference {found.critical:.2f}", SMALL, "soft"))
    for place, (name, rank) in enumerate(zip(found.methods, found.ranks, strict=True)):
        is_left = place < half
        y = below + 13 * ((place if is_left else count - 1 - place) + 1)
        edge = side - 4 if is_left else width - side + 4
        shapes += _named(name, rank, (across(rank), top), (edge, y), is_left=is_left, room=side - 7)
    by_name = dict(zip(found.methods, found.ranks, strict=True))
    for place, group in enumerate(found.groups):
        y = top + 6 + 7 * place
        ends = (across(by_name[group[0]]) - 3, across(by_name[group[-1]]) + 3)
        shapes.append(Box(ends[0], y - 1.5, ends[1] - ends[0], 3, "c0", tip=f"not told apart: {', '.join(group)}"))
    about = ", ".join(f"{name} {rank:.2f}" for name, rank in by_name.items())
    difference = f"critical difference {found.critical:.2f}" if found.critical is not None else found.reason or ""
    return Drawing(width, below + 13 * (half + 1) + 4, tuple(shapes), title, f"Mean ranks: {about}; {difference}")


def _named(
    name: str, rank: float, mark: tuple[float, float], end: tuple[float, float], *, is_left: bool, room: float
) -> list[Shape]:
    """A mark on the line of ranks, and a line from it down to its name, which has `room` beside `end`."""
    (x, top), (edge, y) = mark, end
    anchor, at = ("end", edge - 3) if is_left else ("start", edge + 3)
    return [
        Line(((x, top), (x, y), (edge, y)), "soft", 0.7),
        Text(at, y + 3, shortened(name, 9, room / WIDER), 9, "ink", anchor),
        Mark(x, top, "ink", size=2, tip=f"{name}\nmean rank {rank:.2f}"),
    ]
