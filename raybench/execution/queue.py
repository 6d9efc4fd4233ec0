"""Which unit of a plan comes next. Pure bookkeeping: it knows neither Ray nor the storage nor the clock."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from raybench.pipeline.outcome import Outcome
from raybench.plan import Plan, Unit

MAX_ATTEMPTS = 3  # times that one run starts a unit whose process dies under it
POSTPONE_S = 2.0  # first wait for a unit that another driver holds; doubles up to
POSTPONE_MAX_S = 30.0


class UnitQueue:
    """The units of one plan, handed out as soon as what they need is there, those on the longest path first.

    `attempts` counts starts over several plans of one run, `closed` holds keys that this run has given up.
    """

    def __init__(self, plan: Plan, attempts: Counter[str] | None = None, closed: frozenset[str] = frozenset()) -> None:
        self.attempts: Counter[str] = Counter() if attempts is None else attempts
        units = [unit for unit in plan.units if unit.key not in closed]
        self.units: dict[str, Unit] = {unit.key: unit for unit in units}
        self.running: dict[str, Unit] = {}
        self.ended: dict[str, Outcome] = {}
        self.stopped = False
        self._missing = {unit.key: {need for need in unit.needs if need in self.units} for unit in units}
        self._dependents: dict[str, list[str]] = defaultdict(list)
        for unit in units:
            for need in unit.needs:
                self._dependents[need].append(unit.key)
        self._rank = {key: (-path, place) for place, (key, path) in enumerate(_paths(units).items())}
        self._ready: list[tuple[bool, float, int, str]] = []
        self._postponed: dict[str, float] = {}  # key -> when to look again
        self._waits: Counter[str] = Counter()
        for key, missing in self._missing.items():
            if not missing:
                self._push(key)

    @property
    def finished(self) -> bool:
        """Nothing is running, and nothing is left to start."""
        return not self.running and (self.stopped or len(self.ended) == len(self.units))

    def take(self) -> Unit | None:
        """The next unit that may start now, which then counts as running; None while there is none."""
        if self.stopped or not self._ready:
            return None
        key = heapq.heappop(self._ready)[-1]
        self.running[key] = self.units[key]
        self.attempts[key] += 1
        return self.units[key]

    def end(self, outcome: Outcome) -> list[Unit]:
        """A unit is over. Returns the cells that can't be run for it: the dependents of a failed or skipped stage.

        Told twice it counts once: its dependents must not be handed out again.
        """
        if outcome.key in self.ended:
            return []
        self.running.pop(outcome.key, None)
        self._postponed.pop(outcome.key, None)
        self.ended[outcome.key] = outcome
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

    def lost(self, key: str, reason: str) -> Outcome | None:
        """The process that ran `key` died. It is started again, or this returns the failure after the last attempt."""
        if key not in self.running:
            return None
        unit = self.running.pop(key)
        if self.attempts[key] < MAX_ATTEMPTS:
            self._push(key)
            return None
        message = f"{reason} ({self.attempts[key]} attempts)"
        return Outcome(key, unit.kind, "failed", unit.kind, error_type="WorkerDied", error_message=message)

    def give_back(self, key: str) -> None:
        """`key` was interrupted before it was over, by us: as if it had not been started."""
        if self.running.pop(key, None) is not None:
            self.attempts[key] -= 1
            self._push(key)

    def postpone(self, key: str, now: float) -> None:
        """Another driver holds `key`: look again after `now` (seconds) plus a wait that grows."""
        if self.running.pop(key, None) is not None:
            self.attempts[key] -= 1
        wait = min(POSTPONE_S * 2 ** self._waits[key], POSTPONE_MAX_S)
        self._waits[key] += 1
        self._postponed[key] = now + wait

    def due(self, now: float) -> list[Unit]:
        """Postponed units that it is time to look at."""
        return [self.units[key] for key, when in self._postponed.items() if when <= now]

    def resume(self, key: str) -> None:
        """Nobody holds the postponed unit `key` any more: it may be taken."""
        del self._postponed[key]
        self._push(key)

    def _push(self, key: str) -> None:
        path, place = self._rank[key]
        suspect = self.attempts[key] > 0  # it may be what kills processes: innocent ones first
        heapq.heappush(self._ready, (suspect, path, place, key))


def _paths(units: list[Unit]) -> Mapping[str, float]:
    """Length in epochs of the longest chain that begins with each unit; units come after what they need."""
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
