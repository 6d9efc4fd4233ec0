"""Estimates the cost of a plan from the durations of finished cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from raybench import registry
from raybench.errors import counted
from raybench.plan.records import Estimate, Unit
from raybench.plan.share import Group, Sharing, group_of
from raybench.sweep.resources import Measured, Resources

# (kind, dataset, model, recipe) -> mean seconds; for selections protocol and criterion follow
Timings = Mapping[tuple[str, ...], float]


def estimate(
    units: Sequence[Unit], timings: Timings, resources: Resources, shares: Mapping[Group, Sharing] | None = None
) -> tuple[Estimate | None, dict[str, float]]:
    """The cost of `units`, None when `timings` has nothing for any of them; and the seconds of each unit it has.

    Each unit takes the mean of its kind for the same (dataset, model, recipe), a selection for the same protocol and
    criterion, too; else for the same dataset and model under other recipes, or with another criterion of the same kind.
    `shares`: those of `gpus: auto` that are known; without one a unit counts as a whole GPU.
    """
    if not timings:
        return None, {}
    seconds, unknown, borrowed = dict[str, float](), Counter[str](), 0
    each: dict[str, float] = {}
    cpu_s = gpu_s = 0.0
    asked = cache(resources.of)
    for unit in units:
        if unit.kind == "probe":
            continue
        found, exact = _nearest(unit, timings)
        if found is None:
            unknown[unit.kind] += 1
            continue
        borrowed += not exact
        lasts = found * (len(unit.trials) if unit.kind == "select" else 1)  # a selection pass is timed per speed-up
        each[unit.key] = lasts
        seconds[unit.kind] = seconds.get(unit.kind, 0.0) + lasts
        own = asked(unit.trials[0].model)
        sharing = (shares or {}).get(group_of(unit.trials[0])) if isinstance(own.gpus, Measured) else None
        cpu_s += lasts * own.cpus
        gpu_s += lasts * (sharing.share.gpus if sharing and sharing.share else own.gpus)
    if not seconds:
        return None, {}
    total = sum(seconds.values())
    source = "means over finished cells of the same dataset, model and recipe, whatever device they ran on"
    if borrowed:
        many = counted(len(units), "unit")
        source += f"; {borrowed} of {many} estimated from other recipes or criteria of the same dataset and model"
    return Estimate(seconds, total, gpu_s / 3600, cpu_s / 3600, unknown, source), each


def _nearest(unit: Unit, timings: Timings) -> tuple[float | None, bool]:
    """(seconds, whether nothing but the seed, strategy and speed-up differs) of the closest timing.

    (None, False) without one. A selection's time depends on protocol and criterion by a factor of hundreds, so that one
    of another criterion counts only if it has the same protocol and looks at the same: weights, gradients, activations.
    """
    trial = unit.trials[0]
    where = (unit.kind, trial.dataset, trial.model)
    how = (trial.protocol, trial.importance.name) if unit.kind == "select" else ()
    exact = timings.get((*where, trial.recipe.name, *how))
    if exact is not None:
        return exact, True
    here: dict[tuple[str, ...], list[float]] = {}
    for key, value in timings.items():
        if key[:3] == where:
            here.setdefault(key[4:], []).append(value)
    alike = here.get(how) or [v for other, values in here.items() if _is_alike(how, other) for v in values]
    return (sum(alike) / len(alike) if alike else None), False


def _is_alike(how: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two selections, (protocol, criterion), take a similar time."""
    names = registry.CHOICE.entries()
    needs = [
        names[each[1]].facts.get("needs", "weights") if each[1] in names else None for each in (how, other) if each
    ]
    return len(needs) == 2 and how[0] == other[0] and needs[0] == needs[1] is not None
