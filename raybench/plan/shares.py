"""What a plan does about `gpus: auto`: which shares are known, and the probes that measure the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from raybench.plan.records import Unit
from raybench.plan.share import Group, Sharing, group_of, read_share
from raybench.storage.base import Storage
from raybench.sweep.digests import digest
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.resources import Measured, Resources
from raybench.sweep.trial import Trial


def largest_stage(trial: Trial) -> TrainRecipe:
    """The training stage of `trial` with the largest batch; of equals the last."""
    return max(reversed(trial.stages), key=lambda stage: stage.batch_size)


def batch_of(trial: Trial) -> int:
    """The largest batch that any training stage of `trial` has."""
    return largest_stage(trial).batch_size


def shares_of(trials: Iterable[Trial], resources: Resources, storage: Storage | None) -> dict[Group, Sharing]:
    """The share of each (dataset, model) of `trials` that asks for `auto`; empty where none does.

    The largest cell of a group is the one with the largest batch. Its batch is part of the key, so that a sweep with
    larger ones is measured anew.
    """
    asked = [resources.gpus, *(one.gpus for one in resources.models.values())]
    if not any(isinstance(gpus, Measured) for gpus in asked):
        return {}
    auto: dict[str, bool] = {}
    largest: dict[Group, Trial] = {}
    for trial in trials:
        if trial.model not in auto:
            auto[trial.model] = isinstance(resources.of(trial.model).gpus, Measured)
        if auto[trial.model] and trial.device == "cuda":
            found = largest.setdefault(group_of(trial), trial)
            if batch_of(trial) > batch_of(found):
                largest[group_of(trial)] = trial
    keys = {group: _key(trial) for group, trial in largest.items()}
    return {
        group: Sharing(key, largest[group], read_share(storage, key) if storage else None)
        for group, key in keys.items()
    }


def with_probes(units: Sequence[Unit], shares: Mapping[Group, Sharing]) -> tuple[Unit, ...]:
    """`units` behind the probes that measure the shares which they need and nobody knows yet."""
    if not shares or not units:
        return tuple(units)
    probes: dict[str, Unit] = {}
    behind: list[Unit] = []
    for unit in units:
        sharing = shares.get(group_of(unit.trials[0]))
        if sharing is not None and sharing.share is None:
            probes[sharing.key] = Unit(sharing.key, "probe", (sharing.largest,))
            unit = replace(unit, needs=(sharing.key, *unit.needs))
        behind.append(unit)
    return (*probes.values(), *behind)


def _key(trial: Trial) -> str:
    """Key of the probe of which `trial` is the largest cell."""
    same = (trial.dataset, trial.dataset_params, trial.model, trial.model_params, trial.model_source, trial.device)
    return digest("share", *same, batch_of(trial))
