"""Writes a drawing as a PDF of one page, with text as text in Helvetica, which every reader has."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable

from raybench.reports.drawing.shapes import COLOURS, Box, Drawing, Line, Mark, Point, Shape, Text, corners
from raybench.reports.drawing.text_width import text_width

_ROUND = 0.5523  # length of the handles of a Bezier curve that is a quarter of a circle
_SPELLED = {"Δ": "diff", "≈": "~", "≤": "<=", "≥": ">=", "→": "->", "…": "...", "−": "-"}  # not in its encoding


def as_pdf(drawing: Drawing) -> bytes:
    """The drawing as the bytes of a PDF; one unit is one point."""
    body = "\n".join(["1 J 1 j", *(line for shape in drawing.shapes for line in _shape(shape, drawing.height))])
    packed = zlib.compress(body.encode("cp1252", "replace"))
    fonts = "/F1 5 0 R /F2 6 0 R"
    opacities = " ".join(f"/G{n} << /ca {n / 10} /CA {n / 10} >>" for n in range(1, 11))
    box = f"[0 0 {drawing.width:.2f} {drawing.height:.2f}]"
    resources = f"<< /Font << {fonts} >> /ExtGState << {opacities} >> >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox {box} /Contents 4 0 R /Resources {resources} >>".encode(),
        f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode() + packed + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
        f"<< /Title ({_string(drawing.title)}) /Producer (raybench) >>".encode("cp1252", "replace"),
    ]
    return _file(objects)


def _file(objects: Iterable[bytes]) -> bytes:
    """Objects with their numbers, the table of their places, and the trailer."""
    content, places = b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n", []
    for number, value in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n".encode() + value + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}"
    end = f"trailer\n<< /Size {len(places) + 1} /Root 1 0 R /Info 7 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    return content + head.encode() + end.encode()


def _shape(shape: Shape, height: float) -> Iterable[str]:
    return _WRITERS[type(shape)](shape, height)


def _line(line: Line, height: float) -> Iterable[str]:
    dashes = "[3 3] 0 d" if line.dashed else "[] 0 d"
    yield f"{_rgb(line.colour)} RG {line.width:.2f} w {dashes} {_opacity(line.opacity)}"
    yield f"{_path(line.points, height)} S"


def _box(box: Box, height: float) -> Iterable[str]:
    bottom = height - box.y - box.height
    yield f"{_rgb(box.colour)} rg {_opacity(box.opacity)}"
    yield f"{box.x:.2f} {bottom:.2f} {box.width:.2f} {box.height:.2f} re f"


def _mark(mark: Mark, height: float) -> Iterable[str]:
    path = _circle(mark, height) if mark.shape == "circle" else f"{_path(corners(mark), height)} h"
    yield f"{_rgb(mark.colour)} rg {_opacity(1.0)} {path} f"


def _text(text: Text, height: float) -> Iterable[str]:
    shown = "".join(_SPELLED.get(letter, letter) for letter in text.text)
    before = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor] * text_width(shown, text.size, bold=text.bold)
    x, y = (text.x, height - text.y - before) if text.turned else (text.x - before, height - text.y)
    matrix = "0 1 -1 0" if text.turned else "1 0 0 1"
    font = "F2" if text.bold else "F1"
    yield f"BT {_rgb(text.colour)} rg {_opacity(1.0)} /{font} {text.size:.2f} Tf {matrix} {x:.2f} {y:.2f} Tm"
    yield f"({_string(shown)}) Tj ET"


def _path(points: Iterable[Point], height: float) -> str:
    steps = [f"{x:.2f} {height - y:.2f}" for x, y in points]
    return " ".join(f"{step} {'l' if place else 'm'}" for place, step in enumerate(steps))


def _circle(mark: Mark, height: float) -> str:
    x, y, r = mark.x, height - mark.y, mark.size
    parts = [f"{x + r:.2f} {y:.2f} m"]
    for quarter in range(4):
        a, b = (quarter * math.pi / 2, (quarter + 1) * math.pi / 2)
        handles = (
            (x + r * (math.cos(a) - _ROUND * math.sin(a)), y + r * (math.sin(a) + _ROUND * math.cos(a))),
            (x + r * (math.cos(b) + _ROUND * math.sin(b)), y + r * (math.sin(b) - _ROUND * math.cos(b))),
            (x + r * math.cos(b), y + r * math.sin(b)),
        )
        parts.append(" ".join(f"{px:.2f} {py:.2f}" for px, py in handles) + " c")
    return " ".join(parts)


def _rgb(role: str) -> str:
    value = COLOURS[role]
    return " ".join(f"{int(value[i : i + 2], 16) / 255:.3f}" for i in (1, 3, 5))


def _opacity(value: float) -> str:
    return f"/G{max(1, round(10 * value))} gs"


def _string(text: str) -> str:
    """Text of a PDF string: brackets and backslashes escaped, control characters replaced."""
    plain = "".join(letter if letter >= " " else "?" for letter in text)
    return plain.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


_WRITERS: dict[type, Callable[..., Iterable[str]]] = {Line: _line, Box: _box, Mark: _mark, Text: _text}
