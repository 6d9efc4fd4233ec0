"""Quantities as people type them: speed-ups (`2`, `2x`), durations (`90`, `30m`, `1h`) and parameters (`width=32`)."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


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


def duration(text: str) -> float:
    """A duration in seconds: ``90`` and ``90s``, ``30m``, ``1h``, ``2d``, ``1h30m``. For argparse.

    Example:
        >>> duration("1h"), duration("1h30m"), duration("90")
        (3600.0, 5400.0, 90.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.strip().lower())
    whole = "".join(f"{number}{unit}" for number, unit in parts)
    units = [unit for _, unit in parts]
    known = all(unit in SECONDS for unit in units) and (len(parts) < 2 or "" not in units)
    if (
        not parts
        or not known
        or not any(float(number) for number, _ in parts)
        or whole != re.sub(r"\s", "", text.lower())
    ):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a duration such as 90, 30m, 1h or 2d")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


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
