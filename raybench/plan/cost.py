"""Estimates the cost of a plan from the durations of finished cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raybench.plan.records import Estimate, Unit
from raybench.sweep.sweep import Resources

Timings = Mapping[tuple[str, str, str, str], float]  # (kind, dataset, model, recipe) -> mean seconds


def estimate(units: Sequence[Unit], timings: Timings, resources: Resources) -> Estimate | None:
    """The cost of `units`; None when `timings` has nothing for any of them.

    Each unit takes the mean of its kind for the same (dataset, model, recipe), else for the same dataset and model
    under other recipes.
    """
    seconds: dict[str, float] = {}
    unknown: dict[str, int] = {}
    borrowed = 0
    for unit in units:
        found, exact = _nearest(unit, timings)
        if found is None:
            unknown[unit.kind] = unknown.get(unit.kind, 0) + 1
            continue
        borrowed += not exact
        shares = len(unit.trials) if unit.kind == "select" else 1  # a selection pass is timed per speed-up
        seconds[unit.kind] = seconds.get(unit.kind, 0.0) + found * shares
    if not seconds:
        return None
    total = sum(seconds.values())
    source = "means over finished cells of the same dataset, model and recipe, whatever device they ran on"
    if borrowed:
        source += f"; {borrowed} of {len(units)} units estimated from other recipes of the same dataset and model"
    hours = total / 3600
    return Estimate(seconds, total, hours * resources.gpus, hours * resources.cpus, unknown, source)


def _nearest(unit: Unit, timings: Timings) -> tuple[float | None, bool]:
    """(seconds, whether the recipe is the same) of the closest timing; (None, False) without one."""
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
