"""Accuracy against speed-up, latency or parameters, with the Pareto front: points that no other beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raybench.errors import counted
from raybench.reports.drawing.shapes import Drawing, Line, Mark, Shape, Text, series_look
from raybench.reports.drawing.text_width import shortened, text_width
from raybench.reports.leaderboard import Board, Ranked
from raybench.reports.plots.axes import SMALL, axis, frame, placed_labels

ROW = 12.0  # of the legend
GOALS = {  # name -> (label of the axis, whether more is better)
    "speedup": ("speed-up (base MACs / MACs)", True),
    "latency": ("latency, ms", False),
    "parameters": ("parameters kept, %", False),
}


@dataclass(frozen=True)
class ParetoPoint:
    """One method at one speed-up. `x` is what is gained, `y` the metric."""

    series: str
    x: float
    y: float
    tip: str


def gain(board: Board, entry: Ranked, goal: str) -> float | None:
    """What a method gains. The asked speed-up stands for an achieved one near it: 0.5 % more is no better method."""
    if goal == "latency":
        return entry.latency_ms
    if goal == "parameters":
        return 100 * entry.params_kept
    asked = board.speedup
    return asked if isinstance(asked, float) and abs(entry.speedup / asked - 1) <= 0.01 else entry.speedup


def front(points: Sequence[ParetoPoint], more: bool) -> list[ParetoPoint]:
    """The points that no other is at least as good as in both ways and better in one, by rising x.

    Example:
        >>> found = front([ParetoPoint("a", 2, 90, ""), ParetoPoint("b", 4, 88, ""), ParetoPoint("c", 2, 87, "")], True)
        >>> [one.series for one in found]
        ['a', 'b']
    """
    sign = -1 if more else 1
    best, kept = float("-inf"), []
    for point in sorted(points, key=lambda p: (sign * p.x, -p.y, p.series)):
        if point.y > best:
            kept.append(point)
            best = point.y
    return sorted(kept, key=lambda p: p.x)


def pareto(
    points: Sequence[ParetoPoint],
    goal: str,
    metric: str,
    title: str,
    *,
    size: tuple[float, float] = (360, 270),
    order: Sequence[str] = (),
    legend: bool = False,
) -> Drawing:
    """Draw the points, faint lines through those of a method, the front, and names on the front.

    Args:
        points: what is drawn.
        goal: key of GOALS.
        metric: label of the upright axis.
        title: for screen readers and files.
        size: width and height in points.
        order: methods in the order of their colours; default: by name.
        legend: draw the methods' marks and names below the plot, which grows by that.
    """
    label, more = GOALS[goal]
    names = list(order) or sorted({point.series for point in points})
    looks = {name: series_look(place) for place, name in enumerate(names)}
    width, height = size
    across = axis([p.x for p in points], 38, width - 10, label)
    up = axis([p.y for p in points], height - 34, 18, metric)
    best = front(points, more)
    shapes: list[Shape] = list(frame(across, up))
    shapes += [Line(tuple((across(p.x), up(p.y)) for p in best), "ink", 1.4, dashed=True)] if len(best) > 1 else []
    for name in names:
        own = sorted((p for p in points if p.series == name), key=lambda p: p.x)
        places = tuple((across(p.x), up(p.y)) for p in own)
        shapes += [Line(places, looks[name][0], 0.8, opacity=0.3, series=name)] if len(own) > 1 else []
    shapes += [Mark(across(p.x), up(p.y), *looks[p.series], tip=p.tip, series=p.series) for p in points]
    marks = [(across(p.x), up(p.y)) for p in points]
    shapes += placed_labels([(across(p.x), up(p.y), p.series) for p in best], marks, width, 12)
    best_points = ", ".join(f"{p.series} at {p.x:.4g} with {p.y:.2f}" for p in best)
    below = list(_legend(names, looks, width, height)) if legend else []
    height = max((one.y + ROW / 2 for one in below), default=height)
    methods = f"{counted(len(points), 'point')} of {counted(len(names), 'method')}"
    about = f"{methods}; on the Pareto front: {best_points or 'none'}"
    return Drawing(width, height, (*shapes, *below), title, about, {name: looks[name][0] for name in names})


def _legend(
    names: Sequence[str], looks: Mapping[str, tuple[str, str]], width: float, top: float
) -> Iterator[Mark | Text]:
    """Marks and names in as many columns as fit, read downwards."""
    widest = max((text_width(name, SMALL) for name in names), default=0) + 18
    columns = max(1, int((width - 10) / widest))
    rows = -(-len(names) // columns)
    for place, name in enumerate(names):
        x, y = 10 + (width - 10) / columns * (place // rows), top + ROW * (place % rows + 0.5)
        yield Mark(x, y, *looks[name])
        yield Text(x + 8, y + 2.8, shortened(name, SMALL, width - 20), SMALL)
