"""Latency against speed-up, measured without fine-tuning: which speed-up meets a target, and what is reachable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

PROBES = (2.0, 4.0, 8.0, 16.0)  # speed-ups that are tried first
CLOSE = 1.1  # two tried speed-ups are not halved further below this ratio


@dataclass(frozen=True)
class Curve:
    """Measured latencies of one method's networks, cut but not fine-tuned.

    Attributes:
        method: the method with its parameters, as it is typed.
        base_ms: milliseconds of one image on the uncut network.
        points: (asked speed-up, milliseconds of one image), by rising speed-up.

    Example:
        >>> curve = Curve("random", 10.0, ((2.0, 7.0), (4.0, 5.0)))
        >>> curve.meeting(6.0), curve.between(6.0), curve.meeting(1.0)
        (4.0, 2.83, None)
    """

    method: str
    base_ms: float
    points: tuple[tuple[float, float], ...]

    def meeting(self, target_ms: float) -> float | None:
        """The smallest tried speed-up that takes at most `target_ms`; None if none does."""
        return next((speedup for speedup, ms in self.points if ms <= target_ms), None)

    def between(self, target_ms: float) -> float | None:
        """The speed-up to try next: midway (as a ratio) to the smallest that meets the target. None: close enough."""
        steps = pairwise([(1.0, self.base_ms), *self.points])
        found = next(((low, high) for (low, _), (high, ms) in steps if ms <= target_ms), None)
        if found is None or found[1] / found[0] <= CLOSE:
            return None
        return round((found[0] * found[1]) ** 0.5, 2)

    @property
    def fastest(self) -> tuple[float, float]:
        """(speed-up, milliseconds) of the point with the least latency."""
        return min(self.points, key=lambda point: point[1])


def curves_of(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """One curve for each `label` (method with parameters) of finished `rows`; rows without a latency are left out."""
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok" and row["latency_ms"] is not None and row["latency_base_ms"] is not None:
            methods.setdefault(row["label"], []).append(row)
    return [_curve(method, found) for method, found in methods.items()]


def _curve(method: str, rows: Sequence[Mapping[str, Any]]) -> Curve:
    """The base is timed beside every network: its median makes up for one slow moment."""
    bases = sorted(row["latency_base_ms"] for row in rows)
    points = sorted((float(row["speedup_target"]), float(row["latency_ms"])) for row in rows)
    return Curve(method, bases[len(bases) // 2], tuple(points))


def curve_line(curve: Curve) -> str:
    """``magnitude-l2: 1x 12.1 ms, 2x 8.03 ms, 4x 5.5 ms``."""
    points = [(1.0, curve.base_ms), *curve.points]
    return f"{curve.method}: {', '.join(f'{speedup:g}x {_ms(value)}' for speedup, value in points)}"


def unreachable(curves: Sequence[Curve], target_ms: float) -> Iterator[str]:
    """For each curve that doesn't meet the target what it reaches."""
    for curve in curves:
        if curve.meeting(target_ms) is None:
            speedup, least = curve.fastest
            yield f"{curve.method} reaches {_ms(least)} (at {speedup:g}x; uncut {_ms(curve.base_ms)})"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"
