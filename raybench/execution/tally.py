"""Counts the cells of a run that have ended, and estimates the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from raybench.errors import counted
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.progress.words import duration, tally


class Tally:
    """The counts of one run, over all its plans, and over the processes in which one after the other runs it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.total = 0
        self._start = time.monotonic()
        self._done = 0.0
        self._work = 0.0
        self._work_of: dict[str, float] = {}  # of every unit that was planned

    def begin(self, units: Mapping[str, Unit], outcomes: Mapping[str, Outcome]) -> None:
        """Start on another plan, of `units`. What ended earlier in this run stays counted: all other `outcomes`."""
        self._work_of |= {key: _work(unit) for key, unit in units.items()}
        earlier = [one for key, one in outcomes.items() if key not in units and one.status != "again"]
        self.counts = Counter(one.status for one in earlier if one.kind == "cell")
        self.total = self.over + sum(unit.kind == "cell" for unit in units.values())
        self._done = sum(self._work_of.get(one.key, 1.0) for one in earlier)
        self._work = self._done + sum(map(_work, units.values()))

    @property
    def over(self) -> int:
        """Number of cells that have ended, with any status."""
        return self.counts.total()

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """Count a unit that has ended."""
        self._done += _work(unit)
        if unit.kind == "cell":
            self.counts[outcome.status] += 1

    def headline(self, running: int) -> str:
        """All counts in one line."""
        elapsed, units = duration(time.monotonic() - self._start), counted(running, "unit")
        cells = f"{self.over}/{counted(self.total, 'cell')} ({tally(self.counts)})"
        return f"{cells}, {units} running, {elapsed} elapsed{self.eta()}"

    def left(self, unit: Unit, stage_s: float, epoch_s: float) -> float:
        """Seconds left of all units, from one that trains: each epoch, and each unit besides, counts as `epoch_s`."""
        return stage_s + epoch_s * max(self._work - self._done - _work(unit), 0.0)

    def eta(self) -> str:
        """``, about N left``, estimated from the share of epochs done; empty before 5 % are done."""
        share = self._done / self._work if self._work else 1.0
        if share < 0.05 or share >= 1:
            return ""
        return f", about {duration((time.monotonic() - self._start) * (1 - share) / share)} left"


def _work(unit: Unit) -> float:
    return 1.0 + unit.epochs
