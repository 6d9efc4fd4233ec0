"""Durations as people type them: ``90`` and ``90s``, ``30m``, ``1h``, ``2d``, ``1h30m``."""

from __future__ import annotations

import re

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
EXPECTED = "a duration such as 90, 30m, 1h or 2d"


def seconds_of(text: str) -> float | None:
    """Seconds in `text`; None where that is no duration, or none above 0.

    Example:
        >>> seconds_of("1h30m"), seconds_of("90"), seconds_of("soon")
        (5400.0, 90.0, None)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.strip().lower())
    whole = "".join(f"{number}{unit}" for number, unit in parts)
    units = [unit for _, unit in parts]
    known = all(unit in SECONDS for unit in units) and (len(parts) < 2 or "" not in units)
    if not parts or not known or whole != re.sub(r"\s", "", text.lower()):
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in parts) or None
