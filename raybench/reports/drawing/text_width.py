"""Widths of texts in Helvetica, for layouts that don't depend on a machine's fonts."""

from __future__ import annotations

# Adobe's metrics of Helvetica for the characters 32 to 126, in thousandths of the size.
_WIDTHS = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
    556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
    260, 334, 584,
)  # fmt: skip
_OTHER = 600


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line of text; bold is taken as 7 % wider.

    Example:
        >>> round(text_width("raybench", 10), 1)
        41.1
    """
    units = sum(_WIDTHS[ord(letter) - 32] if 32 <= ord(letter) < 127 else _OTHER for letter in text)
    return units * size / 1000 * (1.07 if bold else 1.0)


def shortened(text: str, size: float, width: float) -> str:
    """`text`, cut in the middle with an ellipsis where it is wider than `width`.

    Example:
        >>> shortened("layer1.0.conv1.weight", 10, 60)
        'layer…weight'
    """
    kept = len(text)
    shown = text
    while text_width(shown, size) > width and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shown
