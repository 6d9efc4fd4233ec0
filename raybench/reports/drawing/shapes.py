"""What a drawing is made of: lines, boxes, marks and texts, with colours by role. Units are points, y goes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Point = tuple[float, float]

# Roles of colours. c0 to c7 are series; the pages define the same roles for light and dark in their style sheet.
COLOURS: Mapping[str, str] = {
    "ink": "#16202c", "soft": "#56616f", "grid": "#dfe4ea", "surface": "#ffffff", "band": "#eef1f5",
    "good": "#13763d", "bad": "#b42318",
    "c0": "#1f66d1", "c1": "#c2410c", "c2": "#13763d", "c3": "#9b2fae", "c4": "#8a6100", "c5": "#0c7285",
    "c6": "#c01d52", "c7": "#56616f",
}  # fmt: skip
SERIES = 8
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Line:
    """A line through points."""

    points: tuple[Point, ...]
    colour: str = "ink"
    width: float = 1.0
    dashed: bool = False
    opacity: float = 1.0
    series: str | None = None  # what the pages highlight together


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str = "band"
    opacity: float = 1.0
    tip: str = ""  # shown while the pointer is over it


@dataclass(frozen=True)
class Mark:
    """A point of a series."""

    x: float
    y: float
    colour: str
    shape: str = "circle"
    size: float = 3.2  # half its width
    tip: str = ""
    series: str | None = None


@dataclass(frozen=True)
class Text:
    """One line of text. `anchor` is start, middle or end; `turned` reads upwards."""

    x: float
    y: float
    text: str
    size: float = 9.0
    colour: str = "ink"
    anchor: str = "start"
    bold: bool = False
    turned: bool = False


Shape = Line | Box | Mark | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes on a sheet. `title` and `about` are what a screen reader says."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
    about: str = ""
    names: Mapping[str, str] = field(default_factory=dict)  # series -> colour role, for a legend beside it


def series_look(place: int) -> tuple[str, str]:
    """(colour, shape) of the series at a place: eight colours with one shape, then the next shape."""
    return f"c{place % SERIES}", SHAPES[place // SERIES % len(SHAPES)]


def corners(mark: Mark) -> tuple[Point, ...]:
    """The corners of a mark that isn't a circle."""
    x, y, r = mark.x, mark.y, mark.size
    return {
        "square": ((x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)),
        "triangle": ((x, y - 1.2 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)),
        "diamond": ((x, y - 1.35 * r), (x + 1.35 * r, y), (x, y + 1.35 * r), (x - 1.35 * r, y)),
    }[mark.shape]
