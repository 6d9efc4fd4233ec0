"""`raybench prune --target-latency MS`: measures cuts without training, then takes the smallest that meets it."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raybench.errors import UserError
from raybench.reports.latency_curve import PROBES, Curve, curve_line, curves_of, unreachable

Row = Mapping[str, Any]
Measure = Callable[[argparse.Namespace], Sequence[Row] | None]  # rows of the cells of options; None: interrupted
ROUNDS = 3  # of halving between two tried speed-ups


def add_target_latency(target: argparse._MutuallyExclusiveGroup) -> None:
    """Add the option ``--target-latency``."""
    text = "milliseconds that one image may take: cuts are timed without training, the smallest that meets it is made"
    target.add_argument("--target-latency", type=_milliseconds, metavar="MS", help=text)


def _milliseconds(text: str) -> float:
    try:
        value = float(text.strip().lower().removesuffix("ms"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected milliseconds above 0, such as 5 or 5ms")
    return value


def speedups_for(args: argparse.Namespace, measure: Measure) -> dict[str, float] | None:
    """Method -> the smallest tried speed-up whose network takes at most ``--target-latency``; None: interrupted.

    Raises:
        UserError: no method reaches it, the uncut network meets it already, or nothing could be timed.
    """
    target = args.target_latency
    probe = copy.copy(args)
    probe.no_finetune, probe.epochs, probe.lr, probe.ratio = True, None, None, None
    tried, chosen = list(PROBES), {}
    for last in (False,) * ROUNDS + (True,):
        probe.speedup = tried
        rows = measure(probe)
        if rows is None:
            return None
        curves = _timed(rows)
        chosen = {curve.method: found for curve in curves if (found := curve.meeting(target)) is not None}
        _check_reachable(curves, chosen, target)
        more = {found for curve in curves if (found := curve.between(target)) is not None} - set(tried)
        if last or not more:
            break
        tried = sorted({*tried, *more})
    for curve in curves:
        print(f"latency, {curve_line(curve)}", file=sys.stderr)
    for line in unreachable(curves, target):
        print(f"left out: {line}, expected at most {target:g} ms", file=sys.stderr)
    return chosen


def _timed(rows: Sequence[Row]) -> list[Curve]:
    curves = curves_of(rows)
    if curves:
        return curves
    why = next((why for row in rows if (why := row["timing_reason"] or row["reason"] or row["error_message"])), "")
    raise UserError(f"--target-latency: no cut could be timed: {why}")


def _check_reachable(curves: Sequence[Curve], chosen: Mapping[str, float], target: float) -> None:
    base = max(curve.base_ms for curve in curves)
    if base <= target:
        raise UserError(f"--target-latency: found {target:g} ms, but the uncut network takes {base:.3g} ms already")
    if not chosen:
        raise UserError(f"--target-latency: found {target:g} ms; {'; '.join(unreachable(curves, target))}")
