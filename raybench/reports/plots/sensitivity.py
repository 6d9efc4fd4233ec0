"""The picture of a sensitivity analysis: one row a group, one column a share that goes, the drop as colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raybench.reports.drawing.shapes import Box, Drawing, Shape, Text
from raybench.reports.drawing.text_width import shortened, text_width
from raybench.reports.plots.axes import SMALL, WIDER
from raybench.reports.text import signed

ROW = 13.0


def sensitivity_picture(
    found: Mapping[str, Sequence[float]], ratios: Sequence[float], base: float, metric: str, title: str,
    *, width: float = 500.0,
) -> Drawing:  # fmt: skip
    """One field a cut, with the metric after it; the darker, the more is lost.

    Args:
        found: group -> metric at each of `ratios`.
        ratios: shares of the group's units that went.
        base: metric of the uncut network.
        metric: its name.
        title: for screen readers and files.
        width: in points.
    """
    left = min(0.45 * width, WIDER * max((text_width(name, SMALL) for name in found), default=0) + 8)
    field = (width - left - 4) / max(len(ratios), 1)
    worst = max((base - value for row in found.values() for value in row), default=0.0)
    shapes: list[Shape] = [
        Text(left + field * (i + 0.5), 11, f"{100 * ratio:g} % go", SMALL, "soft", "middle")
        for i, ratio in enumerate(ratios)
    ]
    for place, (name, row) in enumerate(found.items()):
        y = 16 + ROW * place
        shapes.append(Text(left - 5, y + 9, shortened(name, SMALL, (left - 6) / WIDER), SMALL, "ink", "end"))
        for i, value in enumerate(row):
            drop = base - value
            share = round(max(drop, 0) / worst, 1) if worst > 0 else 0.0
            tip = f"{name}, {100 * ratios[i]:g} % go\n{metric} {value:.2f}, {signed(drop)} points lost"
            x = left + field * i
            shapes.append(Box(x + 0.5, y + 0.5, field - 1, ROW - 1, "band", 1.0, tip))
            if share:
                shapes.append(Box(x + 0.5, y + 0.5, field - 1, ROW - 1, "bad", round(0.7 * share, 2), tip))
            shapes.append(Text(x + field / 2, y + 9, f"{value:.1f}", SMALL, "ink", "middle"))
    bottom = 16 + ROW * len(found)
    shapes.append(
        Text(left, bottom + 12, f"{metric} in %; uncut: {base:.2f}; nothing trained after the cut", SMALL, "soft")
    )
    weakest = sorted(found, key=lambda name: min(found[name]))[:3]
    about = f"Most sensitive: {', '.join(f'{name} (down to {min(found[name]):.1f})' for name in weakest)}"
    return Drawing(width, bottom + 20, tuple(shapes), title, about)
