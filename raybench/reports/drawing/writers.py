"""The format of a drawing by the ending of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raybench.reports.drawing.pdf import as_pdf
from raybench.reports.drawing.png import as_png
from raybench.reports.drawing.shapes import Drawing
from raybench.reports.drawing.svg import file_svg

WRITERS: Mapping[str, Callable[[Drawing], bytes]] = {
    ".svg": lambda drawing: file_svg(drawing).encode(),
    ".pdf": as_pdf,
    ".png": as_png,
}


def encoded(drawing: Drawing, ending: str) -> bytes:
    """The content of a file with this ending: ``.svg``, ``.pdf`` or ``.png``."""
    return WRITERS[ending](drawing)
