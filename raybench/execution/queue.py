"""Decides which unit of a plan runs next. Bookkeeping only: uses neither Ray nor the storage nor the clock."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable
from dataclasses import replace

from raybench.execution.causes import DIED, Cause
from raybench.execution.lengths import Work, paths
from raybench.plan.records import Plan, Unit
from raybench.progress.outcome import Outcome

POSTPONE_S = 2.0  # first wait for a unit that another driver holds; it doubles up to POSTPONE_MAX_S
POSTPONE_MAX_S = 30.0
Shape = Hashable  # of what a unit asks for


def by_team(unit: Unit) -> bool:
    """Whether several processes run `unit` together."""
    return unit.trials[0].processes > 1


class UnitQueue:
    """Queue of the units of one plan: a unit is ready once its needs have ended; those on the longest path come first.

    The length of a path is its units' estimated seconds; where nothing is known of them their work.

    `attempts` counts starts over all plans of one run; `closed` holds keys of units that this run won't start again;
    `outcomes` gets every outcome, also those of units that need a failed stage; `moves` counts nodes that left under a
    unit, and `alone` holds keys of units beside which nothing else runs, both over all plans of one run. `shape_of`
    tells what a ready unit asks for; `work` is that of one epoch of a (dataset, model), where it is known.
    """

    def __init__(
        self,
        plan: Plan,
        attempts: Counter[str] | None = None,
        closed: frozenset[str] = frozenset(),
        outcomes: dict[str, Outcome] | None = None,
        moves: Counter[str] | None = None,
        alone: set[str] | None = None,
        shape_of: Callable[[Unit], Shape] = lambda unit: None,
        work: Work | None = None,
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
        self._left = Counter(by_team(unit) for unit in units)
        self._missing = {unit.key: {need for need in unit.needs if need in self.units} for unit in units}
        self._dependents: dict[str, list[str]] = defaultdict(list)
        for unit in units:
            for need in unit.needs:
                self._dependents[need].append(unit.key)
        ranked = paths(units, plan.seconds, work or {})
        self._rank = {key: (-path, place) for place, (key, path) in enumerate(ranked.items())}
        self._shape_of = shape_of
        self._ready: dict[Shape, list[tuple[bool, float, int, str]]] = defaultdict(list)
        self._shapes: dict[str, Shape] = {}  # of units that were ready once
        self._postponed: dict[str, float] = {}  # key -> when to check again
        self._waits: Counter[str] = Counter()
        for key, missing in self._missing.items():
            if not missing:
                self._push(key)

    @property
    def finished(self) -> bool:
        """Whether nothing is running and nothing is left to start."""
        return not self.running and (self.stopped or len(self.ended) == len(self.units))

    def over(self, team: bool) -> bool:
        """Whether nothing is running and nothing is left to start of the units that teams run, or of the others."""
        return not self._left[team] or (self.stopped and not self.running)

    @property
    def ready(self) -> int:
        """How many units could start now."""
        return 0 if self.stopped else sum(map(len, self._ready.values()))

    def shape(self, key: str) -> Shape:
        """What `key` asked for when it was ready last."""
        return self._shapes[key]

    def ready_of(self, shape: Shape) -> int:
        """How many units of `shape` could start now."""
        return 0 if self.stopped else len(self._ready[shape])

    def next_of(self, shape: Shape) -> Unit | None:
        """The first of them."""
        return self.units[self._ready[shape][0][-1]] if self.ready_of(shape) else None

    def take(self, without: Collection[Shape] = (), team: bool | None = None) -> Unit | None:
        """The next ready unit, of no shape in `without`, which then counts as running; None while there is none.

        `team`: only one that several processes run together, or only one that a single process runs.
        """
        first = [(heap[0], shape) for shape, heap in self._ready.items() if heap and shape not in without]
        if team is not None:
            first = [one for one in first if by_team(self.units[one[0][-1]]) == team]
        if self.stopped or not first:
            return None
        return self.take_of(min(first, key=lambda one: one[0])[1])

    def take_of(self, shape: Shape) -> Unit | None:
        """The same of `shape` alone."""
        if not self.ready_of(shape) or self._must_wait(key := self._ready[shape][0][-1]):
            return None
        heapq.heappop(self._ready[shape])
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
        self._left[by_team(self.units[outcome.key])] -= 1
        if outcome.status == "ok":
            for key in self._dependents[outcome.key]:
                self._missing[key].discard(outcome.key)
                if not self._missing[key] and key not in self.ended:
                    self._push(key)
            return []
        cells: list[Unit] = []
        for unit in [self.units[key] for key in self._dependents[outcome.key]]:
            if unit.key not in self.ended:  # a cell needs a stage and what is made of it: it fails once
                cells += [unit] if unit.kind == "cell" else []
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

    @property
    def elsewhere(self) -> list[Unit]:
        """Units that other drivers hold, while nothing of this one runs or could; else none."""
        return [] if self.running or self.ready else [self.units[key] for key in self._postponed]

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
        shape = self._shapes[key] = self._shape_of(self.units[key])
        heapq.heappush(self._ready[shape], (suspect, path, place, key))
