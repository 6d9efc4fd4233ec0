"""Writes a drawing as PNG by Pillow, four times as fine while it is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

from raybench.reports.drawing.shapes import COLOURS, Box, Drawing, Line, Mark, Point, Text, corners

PIXELS = 3  # for each point: 216 an inch
_FINER = 2


def as_png(drawing: Drawing) -> bytes:
    """The drawing as the bytes of a PNG."""
    from PIL import Image, ImageDraw

    scale = PIXELS * _FINER
    size = (round(drawing.width * scale), round(drawing.height * scale))
    image = Image.new("RGB", size, COLOURS["surface"])
    pen = ImageDraw.Draw(image, "RGBA")  # fills with an opacity are blended with what lies below
    for shape in drawing.shapes:
        _WRITERS[type(shape)](pen, shape, scale, image)
    sink = io.BytesIO()
    small = image.resize((size[0] // _FINER, size[1] // _FINER), Image.Resampling.LANCZOS)
    small.save(sink, "PNG", dpi=(72 * PIXELS, 72 * PIXELS))
    return sink.getvalue()


def _line(pen: Any, line: Line, scale: float, _: Any) -> None:
    width = max(1, round(line.width * scale))
    points = [(x * scale, y * scale) for x, y in line.points]
    if not line.dashed:
        pen.line(points, fill=_colour(line.colour, line.opacity), width=width, joint="curve")
        return
    for start, end in pairwise(points):
        for a, b in _dashes(start, end, 3 * scale):
            pen.line([a, b], fill=_colour(line.colour, line.opacity), width=width)


def _dashes(start: Point, end: Point, length: float) -> list[tuple[Point, Point]]:
    dx, dy = end[0] - start[0], end[1] - start[1]
    whole = (dx * dx + dy * dy) ** 0.5
    count = int(whole // (2 * length)) + 1
    at = [
        (start[0] + dx * t, start[1] + dy * t) for t in (min(1.0, i * length / (whole or 1)) for i in range(2 * count))
    ]
    return list(zip(at[::2], at[1::2], strict=True))


def _box(pen: Any, box: Box, scale: float, _: Any) -> None:
    corner = (box.x * scale, box.y * scale, (box.x + box.width) * scale, (box.y + box.height) * scale)
    pen.rectangle(corner, fill=_colour(box.colour, box.opacity))


def _mark(pen: Any, mark: Mark, scale: float, _: Any) -> None:
    if mark.shape == "circle":
        x, y, r = mark.x * scale, mark.y * scale, mark.size * scale
        pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[mark.colour])
    else:
        pen.polygon([(x * scale, y * scale) for x, y in corners(mark)], fill=COLOURS[mark.colour])


def _text(pen: Any, text: Text, scale: float, image: Any) -> None:
    font = _font(text.size * scale)
    anchor = {"start": "l", "middle": "m", "end": "r"}[text.anchor] + "s"
    shown = "".join(letter if letter >= " " else "?" for letter in text.text)
    stroke = scale / 5 if text.bold else 0
    if not text.turned:
        pen.text((text.x * scale, text.y * scale), shown, COLOURS[text.colour], font, anchor, stroke_width=stroke)
        return
    from PIL import Image, ImageDraw

    length, high = int(font.getlength(shown)) + 4, int(text.size * scale * 1.5)
    label = Image.new("L", (length, high), 0)
    ImageDraw.Draw(label).text((2, high * 0.75), shown, 255, font, "ls")
    label = label.rotate(90, expand=True)
    before = {"start": 1.0, "middle": 0.5, "end": 0.0}[text.anchor]
    place = (round(text.x * scale - high * 0.75), round(text.y * scale - length * before))
    image.paste(COLOURS[text.colour], (place[0], place[1], place[0] + label.width, place[1] + label.height), label)


def _colour(role: str, opacity: float) -> str:
    return f"{COLOURS[role]}{round(255 * opacity):02x}"


@cache
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(0.93 * size)  # its letters are wider than Helvetica's


_WRITERS: dict[type, Callable[[Any, Any, float, Any], None]] = {Line: _line, Box: _box, Mark: _mark, Text: _text}
