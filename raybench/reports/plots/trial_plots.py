"""Plots of single trials: training curves, and the widths of every layer before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raybench.reports.drawing.shapes import Box, Drawing, Line, Mark, Shape, Text, series_look
from raybench.reports.drawing.text_width import shortened, text_width
from raybench.reports.plots.axes import SMALL, axis, frame

Curve = Sequence[Mapping[str, Any]]
ROW = 11.0


def curves(found: Mapping[str, Curve], metric: str, title: str, *, size: tuple[float, float] = (480, 280)) -> Drawing:
    """The selection metric over the epochs of fine-tuning, one line a trial.

    Args:
        found: label -> column `curve` of its row.
        metric: name of the metric.
        title: for screen readers and files.
        size: width and height in points.
    """
    lines = {label: [(e["epoch"], e["metric"]) for e in curve if _is_shown(e)] for label, curve in found.items()}
    lines = {label: points for label, points in lines.items() if points}
    points = [point for line in lines.values() for point in line]
    width, height = size
    rows = (len(lines) + 1) // 2
    across = axis([x for x, _ in points], 38, width - 10, "epoch of fine-tuning")
    up = axis([y for _, y in points], height - 38 - 12 * rows, 18, f"{metric}, selection split, %")
    shapes: list[Shape] = list(frame(across, up))
    for place, (label, line) in enumerate(lines.items()):
        colour, shape = series_look(place)
        shapes.append(Line(tuple((across(x), up(y)) for x, y in line), colour, 1.3))
        shapes += [Mark(across(x), up(y), colour, shape, 1.8, f"{label}\nepoch {x}: {y:.2f}") for x, y in line]
        x, y = 42 + (width - 50) / 2 * (place % 2), height - 6 - 12 * (rows - 1 - place // 2)
        shapes += [Mark(x, y - 3, colour, shape, 3), Text(x + 7, y, shortened(label, SMALL, width / 2 - 40), SMALL)]
    ends = "; ".join(f"{label} ends at {line[-1][1]:.2f}" for label, line in lines.items())
    return Drawing(width, height, tuple(shapes), title, ends or "no epochs")


def widths(layers: Sequence[Mapping[str, Any]], title: str, *, width: float = 360) -> Drawing:
    """One row a layer: output channels before as a pale bar, after as a full one."""
    left = min(0.42 * width, max((text_width(one["layer"], SMALL) for one in layers), default=0) + 8)
    most = max((one["out_before"] for one in layers), default=1)
    scale = (width - left - 62) / most
    shapes: list[Shape] = []
    for place, one in enumerate(layers):
        y = 6 + ROW * place
        tip = f"{one['layer']}\n{one['out_before']} to {one['out_after']} channels"
        shapes.append(Text(left - 5, y + 7, shortened(one["layer"], SMALL, left - 6), SMALL, "ink", "end"))
        shapes.append(Box(left, y, one["out_before"] * scale, 8, "grid", tip=tip))
        shapes.append(Box(left, y, one["out_after"] * scale, 8, "c0", tip=tip))
        note = f"{one['out_after']} of {one['out_before']}"
        shapes.append(Text(left + one["out_before"] * scale + 4, y + 7, note, SMALL, "soft"))
    changes = "; ".join(f"{one['layer']} {one['out_before']} to {one['out_after']}" for one in layers)
    return Drawing(width, 12 + ROW * len(layers), tuple(shapes), title, changes or "no layers")


def _is_shown(entry: Mapping[str, Any]) -> bool:
    return entry["stage"] == "finetune" and entry["metric"] is not None
