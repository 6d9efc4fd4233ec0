"""Decides which unit of a plan runs next. Bookkeeping only: uses neither Ray nor the storage nor the clock."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from raybench.execution.causes import DIED, Cause
from raybench.plan.records import Plan, Unit
from raybench.progress.outcome import Outcome

POSTPONE_S = 2.0  # first wait for a unit that another driver holds; it doubles up to POSTPONE_MAX_S
POSTPONE_MAX_S = 30.0


class UnitQueue:
    """Queue of the units of one plan: a unit is ready once its needs have ended; those on the longest path come first.

    `attempts` counts starts over all plans of one run; `closed` holds keys of units that this run won't start again;
    `outcomes` gets every outcome, also those of units that need a failed stage; `moves` counts nodes that left under a
    unit, and `alone` holds keys of units beside which nothing else runs, both over all plans of one run.
    """

    def __init__(
        self,
        plan: Plan,
        attempts: Counter[str] | None = None,
        closed: frozenset[str] = frozenset(),
        outcomes: dict[str, Outcome] | None = None,
        moves: Counter[str] | None = None,
        alone: set[str] | None = None,
    ) -> None:
        self.attempts: Counter[str] = Counter() if attempts is None else attempts
        self.moves: Counter[str] = Counter() if moves is None else moves
        self.alone: set[str] = set() if alone is None else alone
        units = [unit for unit in plan.units if unit.key not in closed]
        self.units: dict[str, Unit] = {unit.key: unit for unit in units}
        self.running: dict[str, Unit] = {}
        self.ended: dict[str, Outcome] = {}
        self._outcomes = {} if outcomes is None else outcomes
        self.stopped = False
        self._missing = {unit.key: {need for need in unit.needs if need in self.units} for unit in units}
        self._dependents: dict[str, list[str]] = defaultdict(list)
        for unit in units:
            for need in unit.needs:
                self._dependents[need].append(unit.key)
        self._rank = {key: (-path, place) for place, (key, path) in enumerate(_paths(units).items())}
        self._ready: list[tuple[bool, float, int, str]] = []
        self._postponed: dict[str, float] = {}  # key -> when to check again
        self._waits: Counter[str] = Counter()
        for key, missing in self._missing.items():
            if not missing:
                self._push(key)

    @property
    def finished(self) -> bool:
        """Whether nothing is running and nothing is left to start."""
        return not self.running and (self.stopped or len(self.ended) == len(self.units))

    @property
    def ready(self) -> int:
        """How many units could start now."""
        return 0 if self.stopped else len(self._ready)

    @property
    def next(self) -> Unit | None:
        """The unit that `take` would return now."""
        return self.units[self._ready[0][-1]] if self.ready else None

    def take(self) -> Unit | None:
        """The next ready unit, which then counts as running; None while there is none."""
        if self.stopped or not self._ready or self._must_wait(self._ready[0][-1]):
            return None
        key = heapq.heappop(self._ready)[-1]
        self.running[key] = self.units[key]
        self.attempts[key] += 1
        return self.units[key]

    def end(self, outcome: Outcome) -> list[Unit]:
        """Record the end of a unit. Returns the cells that can't run because of it: those that need a failed stage.

        A second call for the same unit does nothing, so that its dependents are not started twice.
        """
        if outcome.key in self.ended:
            return []
        self.running.pop(outcome.key, None)
        self._postponed.pop(outcome.key, None)
        self.ended[outcome.key] = self._outcomes[outcome.key] = outcome
        if outcome.status == "ok":
            for key in self._dependents[outcome.key]:
                self._missing[key].discard(outcome.key)
                if not self._missing[key] and key not in self.ended:
                    self._push(key)
            return []
        doomed = [self.units[key] for key in self._dependents[outcome.key] if key not in self.ended]
        cells = [unit for unit in doomed if unit.kind == "cell"]
        for unit in doomed:
            cells += self.end(replace(outcome, key=unit.key, kind=unit.kind))
        return cells

    def lost(self, key: str, reason: str, cause: Cause = DIED) -> Outcome | None:
        """Record that the process of `key` died. Queues it again, or returns its failure after the last attempt."""
        if key not in self.running:
            return None
        if self.again(key, cause):
            return None
        unit, starts = self.running.pop(key), self.attempts[key] + self.moves[key]
        message = reason if cause.starts == 1 else f"{reason} ({starts} attempts)"
        return Outcome(key, unit.kind, "failed", unit.kind, error_type=cause.name, error_message=message)

    def again(self, key: str, cause: Cause) -> bool:
        """Queue the running unit `key` once more, if its failure by `cause` allows it; returns whether it does."""
        if not cause.counts:
            self.attempts[key] -= 1
            self.moves[key] += 1
        if (self.attempts if cause.counts else self.moves)[key] >= cause.starts:
            return False
        if cause.alone:
            self.alone.add(key)
        del self.running[key]
        self._push(key)
        return True

    def give_back(self, key: str) -> None:
        """Queue `key` again after we interrupted it; this doesn't count as an attempt."""
        if self.running.pop(key, None) is not None:
            self.attempts[key] -= 1
            self._push(key)

    def postpone(self, key: str, now: float) -> None:
        """Another driver holds `key`: check it again after a wait from `now` (seconds) that grows each time."""
        if self.running.pop(key, None) is not None:
            self.attempts[key] -= 1
        wait = min(POSTPONE_S * 2 ** self._waits[key], POSTPONE_MAX_S)
        self._waits[key] += 1
        self._postponed[key] = now + wait

    def due(self, now: float) -> list[Unit]:
        """Postponed units whose wait is over at `now`."""
        return [self.units[key] for key, when in self._postponed.items() if when <= now]

    def resume(self, key: str) -> None:
        """Make the postponed unit `key` ready: no driver holds it any more."""
        del self._postponed[key]
        self._push(key)

    def _must_wait(self, key: str) -> bool:
        """Whether `key` can't run beside what runs now: memory ran out under one of them."""
        return bool(self.running and self.alone) and (key in self.alone or not self.alone.isdisjoint(self.running))

    def _push(self, key: str) -> None:
        path, place = self._rank[key]
        suspect = (
            self.attempts[key] > 0 or key in self.alone
        )  # its process died before, perhaps because of it: run the others first
        heapq.heappush(self._ready, (suspect, path, place, key))


def _paths(units: list[Unit]) -> Mapping[str, float]:
    """Length in epochs of the longest chain that starts at each unit. `units` are in an order that can be run."""
    longest: dict[str, float] = defaultdict(float)
    paths: dict[str, float] = {}
    for unit in reversed(units):
        paths[unit.key] = _epochs(unit) + longest[unit.key]
        for need in unit.needs:
            longest[need] = max(longest[need], paths[unit.key])
    return {unit.key: paths[unit.key] for unit in units}


def _epochs(unit: Unit) -> float:
    recipe = unit.trials[0].recipe
    trained = {"base": recipe.base, "sparsify": recipe.sparsify, "cell": recipe.finetune}.get(unit.kind)
    return 1.0 + (trained.epochs if trained else 0)
