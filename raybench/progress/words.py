"""Progress as text: durations, times, counts, rates, and one line for a unit that has ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """`45s`, `3m 20s`, `2h 05m`."""
    whole = int(max(seconds, 0.0))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def coarse(seconds: float) -> str:
    """The largest unit alone: `45s`, `3m`, `2h`, `5d`.

    Example:
        >>> coarse(45), coarse(200), coarse(7500), coarse(500_000)
        ('45s', '3m', '2h', '5d')
    """
    whole = int(max(seconds, 0.0))
    size, unit = next(((s, u) for s, u in ((86400, "d"), (3600, "h"), (60, "m")) if whole >= s), (1, "s"))
    return f"{whole // size}{unit}"


def moment(seconds: float) -> str:
    """`2026-11-24 07:01:02 UTC`, from seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ended(status: str, kind: str, label: str, *, seconds: float, summary: Mapping[str, float], error: str) -> str:
    """`ok cell resnet20 magnitude-l2 ...: final 97.2 (3.1 s)`, or the status and `error`."""
    head = f"{status} {kind} {label}"
    if status == "ok":
        figures = ", ".join(f"{name.removeprefix('metric_')} {value:.4g}" for name, value in summary.items())
        return f"{head}{': ' if figures else ''}{figures} ({seconds:.1f} s)"
    return f"{head}: {error}" if error else head


def ended_well(label: str, summary: Mapping[str, float]) -> str:
    """`ok resnet20 magnitude-l2 ...: final 97.2`: a cell that ended well, short enough for a panel."""
    final = summary.get("metric_final")
    return f"ok {label}{'' if final is None else f': final {final:.4g}'}"


def folded(text: str, width: int) -> list[str]:
    """`text` in lines of `width` characters, broken behind commas and semicolons alone.

    Example:
        >>> folded("3/4 cells (3 ok), 1 unit running, about 3m 02s left", 34)
        ['3/4 cells (3 ok), 1 unit running,', '  about 3m 02s left']
    """
    first, *parts = re.split(r"(?<=[,;]) ", text)
    lines = [first]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return lines


def tally(counts: Mapping[str, int]) -> str:
    """`3 ok, 0 failed, 1 skipped`."""
    return ", ".join(f"{counts.get(status, 0)} {status}" for status in ("ok", "failed", "skipped"))


def rate(per_second: float) -> str:
    """`7.3 cells a minute`, or `2.5 cells an hour` below one a minute."""
    value, unit = (60 * per_second, "a minute") if per_second >= 1 / 60 else (3600 * per_second, "an hour")
    shown = f"{value:.3g}"
    return f"{shown} {'cell' if shown == '1' else 'cells'} {unit}"
