"""What a plan will cost, told from what finished cells took, of the same store or of one that is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybench.spec.sweep import Resources

if TYPE_CHECKING:
    from raybench.plan import Unit

Timings = Mapping[tuple[str, str, str, str], float]  # (kind, dataset, model, recipe) -> mean seconds


@dataclass(frozen=True)
class Cost:
    """An estimate of computing time, one unit at a time; divide by what runs in parallel."""

    seconds: Mapping[str, float]  # by kind of unit, of the units that an earlier timing tells of
    total_s: float
    gpu_hours: float
    cpu_hours: float
    unknown: Mapping[str, int]  # units by kind that nothing earlier resembles: not in the total
    source: str


def estimate(units: Sequence[Unit], timings: Timings, resources: Resources) -> Cost | None:
    """The cost of `units`; None when `timings` tell of none of them.

    Each is told from the nearest that was timed: the same (dataset, model, recipe), else the same dataset and
    model under other recipes."""
    seconds: dict[str, float] = {}
    unknown: dict[str, int] = {}
    borrowed = 0
    for unit in units:
        found, exact = _nearest(unit, timings)
        if found is None:
            unknown[unit.kind] = unknown.get(unit.kind, 0) + 1
            continue
        borrowed += not exact
        shares = len(unit.trials) if unit.kind == "select" else 1  # a pass was timed per cut
        seconds[unit.kind] = seconds.get(unit.kind, 0.0) + found * shares
    if not seconds:
        return None
    total = sum(seconds.values())
    source = "means over finished cells of the same dataset, model and recipe, whatever device they ran on"
    if borrowed:
        source += f"; {borrowed} of {len(units)} units told from other recipes of the same dataset and model"
    hours = total / 3600
    return Cost(seconds, total, hours * resources.gpus, hours * resources.cpus, unknown, source)


def _nearest(unit: Unit, timings: Timings) -> tuple[float | None, bool]:
    """(seconds, whether the recipe is the same) of the timing that is most like `unit`."""
    trial = unit.trials[0]
    exact = timings.get((unit.kind, trial.dataset, trial.model, trial.recipe.name))
    if exact is not None:
        return exact, True
    alike = [
        value
        for (kind, dataset, model, _), value in timings.items()
        if (kind, dataset, model) == (unit.kind, trial.dataset, trial.model)
    ]
    return (sum(alike) / len(alike) if alike else None), False
