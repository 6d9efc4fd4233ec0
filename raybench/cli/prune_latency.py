"""`raybench prune --target-latency 5ms` or `1.5x`: times cuts without training, takes the smallest that meets it."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raybench.errors import UserError
from raybench.reports.latency_curve import PROBES, Curve, curve_line, curves_of, unreachable

Row = Mapping[str, Any]
Measure = Callable[[argparse.Namespace], Sequence[Row] | None]  # rows of the cells of options; None: interrupted
ROUNDS = 3  # of halving between two tried speed-ups


@dataclass(frozen=True)
class TargetLatency:
    """The asked latency: milliseconds, or how many times as fast as the uncut network."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value:g}{'x' if self.relative else ' ms'}"

    def ms(self, base_ms: float) -> float:
        """Milliseconds that a network may take whose uncut form takes `base_ms`."""
        return base_ms / self.value if self.relative else self.value


def add_target_latency(target: argparse._MutuallyExclusiveGroup) -> None:
    """Add the option ``--target-latency``."""
    text = "time of one image, such as 5ms, or 1.5x for that much faster than the uncut network: "
    text += "cuts are timed without training, the smallest that meets it is made"
    target.add_argument("--target-latency", type=latency, metavar="TIME", help=text)


def latency(text: str) -> TargetLatency:
    """A latency: ``5`` and ``5ms``, or ``1.5x`` for that much faster than the uncut network. For argparse."""
    word = text.strip().lower()
    relative = word.endswith("x")
    try:
        value = float(word.removesuffix("x") if relative else word.removesuffix("ms"))
    except ValueError:
        value = 0.0
    if not (1 if relative else 0) < value < 1e7:
        expected = "a number above 1, such as 1.5x" if relative else "milliseconds above 0, such as 5 or 5ms, or 1.5x"
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return TargetLatency(value, relative)


def speedups_for(args: argparse.Namespace, measure: Measure) -> dict[str, float] | None:
    """Method -> the smallest tried speed-up whose network takes at most ``--target-latency``; None: interrupted.

    Raises:
        UserError: no method reaches it, the uncut network meets it already, or nothing could be timed.
    """
    target: TargetLatency = args.target_latency
    probe = copy.copy(args)
    probe.no_finetune, probe.epochs, probe.lr, probe.ratio = True, None, None, None
    tried, chosen = list(PROBES), {}
    for last in (False,) * ROUNDS + (True,):
        probe.speedup = tried
        rows = measure(probe)
        if rows is None:
            return None
        curves = _timed(rows)
        chosen = {curve.method: found for curve in curves if (found := curve.meeting(target.ms(curve.base_ms)))}
        _check_reachable(curves, chosen, target)
        more = {found for curve in curves if (found := curve.between(target.ms(curve.base_ms)))} - set(tried)
        if last or not more:
            break
        tried = sorted({*tried, *more})
    for curve in curves:
        print(f"latency, {curve_line(curve)}", file=sys.stderr)
    for line in _unreachable(curves, target):
        print(f"left out: {line}, expected {_expected(target)}", file=sys.stderr)
    return chosen


def _timed(rows: Sequence[Row]) -> list[Curve]:
    curves = curves_of(rows)
    if curves:
        return curves
    why = next((why for row in rows if (why := row["timing_reason"] or row["reason"] or row["error_message"])), "")
    raise UserError(f"--target-latency: no cut could be timed: {why}")


def _unreachable(curves: Sequence[Curve], target: TargetLatency) -> list[str]:
    return [line for curve in curves for line in unreachable([curve], target.ms(curve.base_ms))]


def _expected(target: TargetLatency) -> str:
    return f"{target} faster" if target.relative else f"at most {target}"


def _check_reachable(curves: Sequence[Curve], chosen: Mapping[str, float], target: TargetLatency) -> None:
    base = max(curve.base_ms for curve in curves)
    if base <= target.ms(base):
        raise UserError(f"--target-latency: found {target}, but the uncut network takes {base:.3g} ms already")
    if not chosen:
        raise UserError(f"--target-latency: found {target}; {'; '.join(_unreachable(curves, target))}")
