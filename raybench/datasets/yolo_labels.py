"""Lines of YOLO's label files: boxes, and polygons, of which the enclosing box is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raybench.errors import UserError, counted

EXPECTED = "class x y width height, or a polygon: class x1 y1 x2 y2 x3 y3 ..."
BOX, POLYGON = 4, 6  # numbers behind the class; a polygon has at least three corners
FAR = 2.0  # shares above this are no shares


@dataclass(frozen=True)
class Box:
    """One line: corners as shares of the image."""

    label: int
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    polygon: bool


def boxes_of(file: Path, classes: int) -> Iterator[Box]:
    """The boxes of the label file `file`, line by line; `classes`: how many the YAML names.

    UserError, with file and line, for what is no box; with the file, when it is no UTF-8 text.
    """
    for number, row in enumerate(text_of_file(file, f"lines {EXPECTED}").splitlines(), 1):
        if row.strip():
            yield _box(row, classes, f"{file}:{number}")


def text_of_file(file: Path, expected: str) -> str:
    """The UTF-8 text in `file`, with or without a byte order mark; UserError, with what was `expected`, for others."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}; expected {expected}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{file}: found UTF-16 text; expected UTF-8 or ASCII, {expected}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{file}:{line}: found a byte {content[error.start]:#x}, which is no UTF-8 text; expected {expected}"
        ) from error


def _box(row: str, classes: int, where: str) -> Box:
    shown = row if len(row) <= 80 else f"{row[:77]}..."
    try:
        label, *numbers = (float(word) for word in row.split())
    except ValueError as error:
        raise UserError(f"{where}: found {shown!r}; expected numbers: {EXPECTED}") from error
    if not all(map(math.isfinite, (label, *numbers))):
        raise UserError(f"{where}: found {shown!r}; expected finite numbers: {EXPECTED}")
    polygon = len(numbers) >= POLYGON and len(numbers) % 2 == 0
    if len(numbers) != BOX and not polygon:
        raise UserError(f"{where}: found {counted(len(numbers) + 1, 'number')}; expected 5: {EXPECTED}")
    if label != int(label) or not 0 <= label < classes:
        raise UserError(f"{where}: class {label:g} is none of the {classes} that the YAML names")
    if max(numbers) > FAR:
        raise UserError(f"{where}: found {max(numbers):g}; expected shares of the image, 0 to 1, not pixels")
    if polygon:
        across, down = numbers[::2], numbers[1::2]
        return Box(int(label), (min(across), min(down), max(across), max(down)), True)
    x, y, width, height = numbers
    return Box(int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2), False)
