"""Sweep -> Plan: the cells, the stages they share, what is done already, what is skipped and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybench.spec.trial import Trial


@dataclass(frozen=True)
class Unit:
    """The least that is scheduled: one shared stage, or one cell."""

    key: str  # trial_id of a cell, key of a stage; for "select" the key of the pass that yields several cuts
    kind: Literal["base", "sparsify", "select", "cell"]
    trials: tuple[Trial, ...]  # the cell itself; the trials that a stage serves (for "select": one a speed-up)
    needs: tuple[str, ...] = ()  # keys of units in this plan that must have ended well before


@dataclass(frozen=True)
class Skip:
    """A cell that can't be run, known before it starts."""

    trial: Trial
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a run will do, in an order in which every unit comes after what it needs."""

    units: tuple[Unit, ...]
    done: tuple[str, ...]  # trial_ids that the store has
    skips: tuple[Skip, ...]
    trials: tuple[Trial, ...]  # every cell of the sweep, done and skipped ones included
