"""Records of a plan: units of work in a runnable order, skipped cells with reasons, and the estimated cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from raybench.plan.share import Group, Sharing
from raybench.results.repair import Damage
from raybench.sweep.trial import Trial

UnitKind = Literal["probe", "base", "sparsify", "select", "cell"]


@dataclass(frozen=True)
class Estimate:
    """Estimated computing time, summed over units; divide by the number that run in parallel."""

    seconds: Mapping[str, float]  # by kind of unit, of the units with an earlier timing
    total_s: float
    gpu_hours: float
    cpu_hours: float
    unknown: Mapping[str, int]  # number of units by kind without any earlier timing: not in the total
    source: str  # where the timings come from, as text


@dataclass(frozen=True)
class Unit:
    """The smallest thing that is scheduled: one shared stage or one cell."""

    key: str  # trial_id of a cell, key of a stage; for "select" the key of the pass that yields several cuts
    kind: UnitKind
    trials: tuple[Trial, ...]  # the cell itself; the trials that a stage serves (for "select": one a speed-up)
    needs: tuple[str, ...] = ()  # keys of units in this plan that must have succeeded before
    recipe: str = ""  # where the sweep has several: the one that all its trials have

    @property
    def epochs(self) -> int:
        """Epochs of training that it has."""
        trial = self.trials[0]
        trained = {"base": trial.recipe.base, "sparsify": trial.recipe.sparsify, "cell": trial.tuning}.get(self.kind)
        return trained.epochs if trained else 0


@dataclass(frozen=True)
class Skip:
    """A cell that is known before the start not to be runnable."""

    trial: Trial
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a run will do. Every unit comes after the units that it needs."""

    units: tuple[Unit, ...]
    done: tuple[str, ...]  # trial_ids that need no run: finished, or skipped when they were tried
    skips: tuple[Skip, ...]
    trials: tuple[Trial, ...]  # every cell of the sweep, done and skipped ones included
    stored: Mapping[str, str] = field(default_factory=dict)  # trial_id -> ok|failed|skipped, from the store
    damaged: tuple[Damage, ...] = ()  # result files whose rows a run sets aside, keeps where they are whole, or makes
    unchecked: tuple[str, ...] = ()  # unregistered models: whether a method supports them is checked at start
    cost: Estimate | None = None  # None without any earlier timing
    seconds: Mapping[str, float] = field(default_factory=dict)  # unit key -> estimated duration, where it is known
    shares: Mapping[Group, Sharing] = field(default_factory=dict)  # of the cells with `gpus: auto`

    @cached_property
    def cells(self) -> tuple[Unit, ...]:
        """The units that are cells."""
        return tuple(unit for unit in self.units if unit.kind == "cell")

    @cached_property
    def stages(self) -> tuple[Unit, ...]:
        """The units that are shared stages."""
        return tuple(unit for unit in self.units if unit.kind != "cell")
