"""How long units take, as far as it matters to their order: the longest path comes first. Pure arithmetic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from raybench.plan.records import Unit

Work = Mapping[tuple[str, str], float]  # (dataset, model) -> MACs of an epoch: those of an image x training images


def paths(units: Sequence[Unit], seconds: Mapping[str, float], work: Work) -> dict[str, float]:
    """Length of the longest chain that starts at each unit.

    Args:
        units: in an order that can be run.
        seconds: unit key -> estimated duration; units may be missing.
        work: of one epoch; pairs may be missing.
    """
    each = lengths(units, seconds, work)
    longest: dict[str, float] = defaultdict(float)
    found: dict[str, float] = {}
    for unit in reversed(units):
        found[unit.key] = each[unit.key] + longest[unit.key]
        for need in unit.needs:
            longest[need] = max(longest[need], found[unit.key])
    return {unit.key: found[unit.key] for unit in units}


def lengths(units: Sequence[Unit], seconds: Mapping[str, float], work: Work) -> dict[str, float]:
    """Length of each unit: its estimated seconds, or its epochs x work, in the seconds that others took for theirs.

    Without any estimate the unit of length is an epoch of the mean network.

    Example:
        >>> lengths((), {}, {})
        {}
    """
    effort = _efforts(units, work)
    timed = [unit.key for unit in units if seconds.get(unit.key)]
    pace = sum(seconds[key] for key in timed) / sum(effort[key] for key in timed) if timed else 1.0
    return {unit.key: seconds.get(unit.key, effort[unit.key] * pace) for unit in units}


def _efforts(units: Sequence[Unit], work: Work) -> dict[str, float]:
    """Epochs x work of an epoch, over the mean work; one epoch stands for all that is not training."""
    pairs = {(unit.trials[0].dataset, unit.trials[0].model) for unit in units}
    known = [work[pair] for pair in sorted(pairs) if work.get(pair)]
    mean = sum(known) / len(known) if known else 1.0
    return {
        unit.key: (work.get((unit.trials[0].dataset, unit.trials[0].model)) or mean) / mean * (1.0 + unit.epochs)
        for unit in units
    }
