"""Quantities as people type them: speed-ups (`2x`), sizes (`128x96`), durations (`1h`), parameters (`width=32`)."""

from __future__ import annotations

import argparse
import math
from typing import Any

from raybench.image_size import EXPECTED, read_size, written
from raybench.sweep.durations import EXPECTED as A_DURATION
from raybench.sweep.durations import seconds_of


def speedup(text: str) -> float:
    """A speed-up: ``2``, ``2x`` or ``2.5X``. For argparse.

    Example:
        >>> speedup("2x"), speedup("1.5")
        (2.0, 1.5)
    """
    try:
        value = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        value = math.nan
    if not 1 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 1, such as 2 or 2x")
    return value


def speedup_or_average(text: str) -> float | str:
    """A speed-up, or ``average``. For argparse.

    Example:
        >>> speedup_or_average("2x"), speedup_or_average("average")
        (2.0, 'average')
    """
    return text if text == "average" else speedup(text)


def image_size(text: str) -> int | str:
    """The size of images: ``224``, or ``128x96`` (width x height). For argparse.

    Example:
        >>> image_size("224"), image_size("128x96"), image_size("64X64")
        (224, '128x96', 64)
    """
    size = read_size(int(text) if text.strip().isdecimal() else text)
    if size is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {EXPECTED}")
    return written(size)


def whole(text: str) -> int:
    """A whole number of at least 1. For argparse.

    Example:
        >>> whole("3")
        3
    """
    if not (text.strip().isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def duration(text: str) -> float:
    """A duration in seconds: ``90`` and ``90s``, ``30m``, ``1h``, ``2d``, ``1h30m``. For argparse.

    Example:
        >>> duration("1h"), duration("1h30m"), duration("90")
        (3600.0, 5400.0, 90.0)
    """
    seconds = seconds_of(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {A_DURATION}")
    return seconds


def parameter(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, with the value read as YAML reads it: a number, true or false, or text. For argparse.

    Example:
        >>> parameter("width=32"), parameter("mode=out")
        (('width', 32), ('mode', 'out'))
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=VALUE, such as width=32")
    from raybench.sweep.nodes import scalar  # with pydantic, which verbs without parameters needn't load

    read = scalar(value)
    return name, read if isinstance(read, (bool, int, float, str)) else value
