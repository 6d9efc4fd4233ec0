"""Writes a drawing as SVG: for a page, with colours of its style sheet, or as a file with its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape

from raybench.errors import printable
from raybench.reports.drawing.shapes import COLOURS, Box, Drawing, Line, Mark, Shape, Text, corners, series_look

Paint = Callable[[str, str], str]  # (fill or stroke, role of the colour) -> attribute
FONT = "Helvetica, Arial, sans-serif"


def page_svg(drawing: Drawing) -> str:
    """The drawing as part of a page: it takes the width at hand, and colours by classes (`f-ROLE` and `s-ROLE`).

    A series is its place in the drawing's `names`, as in the legend beside it.
    """
    head = (
        f'<svg class="drawing" role="img" viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}" '
        f'aria-label="{_said(drawing.title)}{"." if drawing.about else ""} {_said(drawing.about)}">'
    )
    return (
        head
        + "".join(_shape(_numbered(one, list(drawing.names)), _by_class, tips=True) for one in drawing.shapes)
        + "</svg>"
    )


def file_svg(drawing: Drawing) -> str:
    """The drawing as a file; one unit is one point."""
    width, height = _n(drawing.width), _n(drawing.height)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}" '
        f'font-family="{FONT}" role="img"><title>{_said(drawing.title)}</title><desc>{_said(drawing.about)}</desc>'
        f'<rect width="{width}" height="{height}" fill="{COLOURS["surface"]}"/>'
    )
    return head + "".join(_shape(one, _by_value, tips=False) for one in drawing.shapes) + "</svg>\n"


def key_path(place: int) -> str:
    """The mark of the series at a place, as the path of a legend: ten units wide, its middle at 0, 0.

    Example:
        >>> key_path(8)
        'M-3.2,-3.2 3.2,-3.2 3.2,3.2 -3.2,3.2z'
    """
    colour, shape = series_look(place)
    mark = Mark(0, 0, colour, shape)
    if shape == "circle":
        r = mark.size
        return f"M{-r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    return "M" + " ".join(f"{_n(x)},{_n(y)}" for x, y in corners(mark)) + "z"


def _numbered(shape: Shape, names: list[str]) -> Shape:
    if isinstance(shape, (Line, Mark)) and shape.series in names:
        return replace(shape, series=str(names.index(shape.series)))
    return shape


def _by_class(kind: str, role: str) -> str:
    return f'class="{kind[0]}-{role}"'


def _by_value(kind: str, role: str) -> str:
    return f'{kind}="{COLOURS[role]}"'


def _shape(shape: Shape, paint: Paint, tips: bool) -> str:
    return _WRITERS[type(shape)](shape, paint, tips)


def _line(line: Line, paint: Paint, tips: bool) -> str:
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in line.points)
    if tips and line.series:  # thin and pale by the style sheet
        return f'<polyline points="{points}" class="t s-{line.colour}" data-s="{_said(line.series)}"/>'
    more = ' stroke-dasharray="3 3"' if line.dashed else ""
    more += f' opacity="{_n(line.opacity)}"' if line.opacity < 1 else ""
    more += "" if tips else ' fill="none"'
    return f'<polyline points="{points}" {paint("stroke", line.colour)} stroke-width="{_n(line.width)}"{more}/>'


def _box(box: Box, paint: Paint, tips: bool) -> str:
    more = f' opacity="{_n(box.opacity)}"' if box.opacity < 1 else ""
    more += f' data-t="{_said(box.tip)}"' if tips and box.tip else ""
    place = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    return f"<rect {place} {paint('fill', box.colour)}{more}/>"


def _mark(mark: Mark, paint: Paint, tips: bool) -> str:
    more = f' data-t="{_said(mark.tip)}"' if tips and mark.tip else ""
    more += f' data-s="{_said(mark.series)}"' if tips and mark.series else ""
    fill = paint("fill", mark.colour)
    if mark.shape == "circle":
        return f'<circle cx="{_n(mark.x)}" cy="{_n(mark.y)}" r="{_n(mark.size)}" {fill}{more}/>'
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in corners(mark))
    return f'<polygon points="{points}" {fill}{more}/>'


def _text(text: Text, paint: Paint, tips: bool) -> str:
    more = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    more += ' font-weight="600"' if text.bold else ""
    more += f' transform="rotate(-90 {_n(text.x)} {_n(text.y)})"' if text.turned else ""
    place = f'x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}"'
    return f"<text {place} {paint('fill', text.colour)}{more}>{_said(text.text)}</text>"


def _said(text: str) -> str:
    return escape(_legal(text))


def _legal(text: str) -> str:
    """`text` without what XML forbids; control characters and changes of the writing direction as escapes."""
    return "".join("?" if letter in "\ufffe\uffff" else letter for letter in printable(text))


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


_WRITERS: dict[type, Callable[..., str]] = {Line: _line, Box: _box, Mark: _mark, Text: _text}
