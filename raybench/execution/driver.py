"""The loop that brings a sweep to its end: plan what is missing, run it, plan again, until nothing more can be done.

How units are run (in this process, or as trials of Ray Tune) is handed in; this file knows neither Ray nor torch.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from raybench.errors import UserError
from raybench.execution.queue import MAX_ATTEMPTS, UnitQueue
from raybench.execution.worker import Assignment
from raybench.pipeline.journal import read_journal
from raybench.pipeline.outcome import Outcome, is_done, settle
from raybench.plan import Plan, Unit
from raybench.progress.records import heartbeat, planned, write_plan
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import Lease


class Aborted(Exception):
    """The executor died under the running units, e.g. for want of memory; what is missing can be planned again."""


class Watcher:
    """Is told what happens; the base class keeps quiet. See raybench.execution.progress."""

    def begin(self, run: Run) -> None:
        """A plan is about to be run."""

    def started(self, unit: Unit) -> None:
        """A unit was handed out."""

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """A unit is over, for good in this run."""

    def say(self, text: str) -> None:
        """Something else that the person should know."""

    def close(self) -> None:
        """The run is over."""


@dataclass
class Run:
    """One command's work on one sweep: what executors ask for units and tell outcomes."""

    storage: Storage
    assignment: Assignment
    watcher: Watcher = field(default_factory=Watcher)
    attempts: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # ended units of this run, the last outcome of each
    interrupted: bool = False
    sweep: str = ""  # its name, for those who watch
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    queue: UnitQueue = field(init=False)
    _heartbeat: Heartbeat | None = field(init=False, default=None)

    @property
    def stop_key(self) -> str:
        """Exists in the storage as soon as this run's workers should let go of their units."""
        return f"stops/{self.id}"

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to start in the present plan."""
        return self.queue.finished

    def load(self, plan: Plan) -> None:
        """Begin with another plan; what failed or was skipped in this run stays so."""
        closed = frozenset(key for key, outcome in self.outcomes.items() if outcome.status != "ok")
        self.queue = UnitQueue(plan, self.attempts, closed)
        if self._heartbeat is None and plan.units:
            self._appear(plan)
        self.watcher.begin(self)

    def take(self) -> Unit | None:
        """The next unit to start, None when there is none at this moment."""
        for unit in self.queue.due(time.monotonic()):
            self._look_again(unit)
        unit = self.queue.take()
        if unit is not None:
            self.watcher.started(unit)
        return unit

    def over(self, outcome: Outcome) -> None:
        """A unit came to an end; cells that can't be run for it get their rows."""
        if outcome.status == "busy":
            self.queue.postpone(outcome.key, time.monotonic())
            return
        cells = self.queue.end(outcome)
        self.outcomes |= self.queue.ended
        self.watcher.ended(self.queue.units[outcome.key], outcome)
        for unit in cells:
            own = replace(outcome, key=unit.key, kind="cell")
            settle(own, unit.trials[0], Store(self.storage))
            self.watcher.ended(unit, own)

    def lost(self, key: str, reason: str) -> None:
        """The process that ran unit `key` is gone."""
        unit = self.queue.running.get(key)
        if unit is None:
            return
        if is_done(unit, self.storage):  # it died between publishing and telling
            self.over(Outcome(key, unit.kind, "ok"))
            return
        outcome = self.queue.lost(key, reason)
        if outcome is None:
            self.watcher.say(f"{unit.kind} {key}: {reason}; starting it again")
            return
        outcome = replace(outcome, stage=_last_stage(unit, self.storage))
        if unit.kind == "cell":
            settle(outcome, unit.trials[0], Store(self.storage))
        self.over(outcome)

    def abandon(self, reason: str) -> None:
        """Every process that ran a unit is gone."""
        for key in list(self.queue.running):
            self.lost(key, reason)

    def stop(self) -> None:
        """Start nothing more, and tell the workers to let go."""
        self.interrupted = self.queue.stopped = True
        self.watcher.say("stopping: workers let go of their units; Ctrl-C again ends at once")
        self.storage.create(self.stop_key, b"")

    def leave(self) -> None:
        """Say in the storage how this run ended."""
        if self._heartbeat is not None:
            self._heartbeat.stop(status="ended" if self.finished and not self.interrupted else "interrupted")

    def _appear(self, plan: Plan) -> None:
        """Say in the storage what is planned, and from now on that this driver is there."""
        what = planned(self.sweep, plan)
        self._heartbeat = heartbeat(self.storage, self.id, what, write_plan(self.storage, what))
        self._heartbeat.start()

    def _look_again(self, unit: Unit) -> None:
        """See whether the other driver that holds `unit` has ended it, or has died."""
        if is_done(unit, self.storage):
            self.over(Outcome(unit.key, unit.kind, "ok"))
        elif Lease(self.storage, unit.key).taken:
            self.queue.postpone(unit.key, time.monotonic())
        else:
            self.queue.resume(unit.key)


def drive(run: Run, make_plan: Callable[[], Plan], fit: Callable[[Run], None]) -> None:
    """Run everything that `make_plan` finds missing, by `fit`, and plan again until nothing more can be done.

    Ends, because every start of a unit counts as an attempt of it and each has few. Outcomes are in `run`.
    """
    try:
        while not run.interrupted:
            plan = make_plan()
            _write_skips(plan, run.storage)
            run.load(plan)
            _give_up(run)
            if run.finished:
                break
            try:
                fit(run)
            except Aborted as error:
                run.watcher.say(f"{error}: planning again")
                run.abandon(str(error))
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        run.watcher.close()
        with suppress(OSError, UserError):  # `raybench gc` removes what the storage doesn't let go of now
            run.storage.delete(run.stop_key)
        run.leave()


def only_cell(plan: Plan, trial_id: str) -> Plan:
    """`plan` cut down to one cell and what it needs; UserError when the sweep has no such cell."""
    found = [trial.trial_id for trial in plan.trials if trial.trial_id.startswith(trial_id)]
    if len(found) != 1:
        count = "no cell" if not found else f"{len(found)} cells"
        raise UserError(f"--only {trial_id}: found {count} of that id; expected one (raybench plan lists them)")
    units = {unit.key: unit for unit in plan.units}
    wanted = [found[0]] if found[0] in units else []
    for key in wanted:  # grows while it is walked
        wanted += [need for need in units[key].needs if need in units and need not in wanted]
    trials = tuple(trial for trial in plan.trials if trial.trial_id == found[0])
    skips = tuple(skip for skip in plan.skips if skip.trial.trial_id == found[0])
    return replace(plan, units=tuple(u for u in plan.units if u.key in wanted), trials=trials, skips=skips)


def _write_skips(plan: Plan, storage: Storage) -> None:
    """A cell never vanishes: those known to be impossible get their rows now."""
    if not plan.skips:
        return
    store = Store(storage)
    known = store.statuses()
    for skip in plan.skips:
        if known.get(skip.trial.trial_id) != "skipped":
            store.publish(Record.skipped(skip.trial, skip.reason))


def _last_stage(unit: Unit, storage: Storage) -> str:
    """The stage that the journal saw last, for a process that could not tell."""
    stages = [stage["stage"] for execution in read_journal(storage, unit.key) for stage in execution["stages"]]
    return stages[-1] if stages else unit.kind


def _give_up(run: Run) -> None:
    """End units that were started too often: they came to an end, and yet what they make is missing."""
    for unit in list(run.queue.units.values()):
        if unit.key not in run.queue.ended and run.attempts[unit.key] >= MAX_ATTEMPTS:
            run.queue.running[unit.key] = unit
            run.lost(unit.key, "it ended well, but what it makes is not in the storage")
