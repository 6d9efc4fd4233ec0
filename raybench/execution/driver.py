"""The loop that completes a sweep: plan what is missing, run it, plan again, until nothing more can be run.

The executor (this process, or trials of Ray Tune) is a parameter; this file imports neither Ray nor torch.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from raybench.errors import UserError
from raybench.execution.batches import Batches
from raybench.execution.causes import (
    DEVICE_MEMORY,
    DIED,
    HUNG,
    MAX_ATTEMPTS,
    MEMORY,
    Cause,
    of_device,
    ran_out_of_memory,
)
from raybench.execution.grants import Grants
from raybench.execution.interrupt import interrupts
from raybench.execution.lengths import Work
from raybench.execution.limits import overdue
from raybench.execution.queue import UnitQueue
from raybench.execution.tally import Tally
from raybench.execution.waits import Wait, for_another_run
from raybench.execution.worker import Assignment
from raybench.plan.records import Plan, Unit
from raybench.progress.journal import read_journal
from raybench.progress.outcome import Outcome, is_done, settle
from raybench.progress.records import heartbeat, planned, write_plan
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import Lease
from raybench.sweep.resources import Resources


class Aborted(Exception):
    """The executor crashed while units were running, e.g. out of memory; what is missing can be planned again.

    `by_units`: whether a unit may have caused it, so that it counts as an attempt of those that were running.
    `cause`: what the attempt counts as.
    """

    def __init__(self, reason: str, by_units: bool = True, cause: Cause = DIED) -> None:
        self.by_units, self.cause = by_units, cause
        super().__init__(reason)


class Watcher:
    """Receives the events of a run and ignores them; subclasses show them (see raybench.execution.progress)."""

    def begin(self, run: Run) -> None:
        """A plan is about to be run."""

    def started(self, unit: Unit) -> None:
        """A unit was given to a worker."""

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """A unit has ended and won't be started again in this run."""

    def checking(self) -> None:
        """Data, weights and networks are about to be checked, which may take some seconds."""

    def say(self, text: str) -> None:
        """Show another message to the user."""

    def left(self, unit: Unit, stage_s: float, epoch_s: float) -> float | None:
        """Seconds left of the run, while `unit` trains for `stage_s` more, `epoch_s` an epoch; None: not known."""

    def recover(self) -> None:
        """Another process that showed this run has died: repair what it left on the screen."""

    def close(self) -> None:
        """The run has ended."""


@dataclass
class Run:
    """One run of a sweep: executors take units from it and report outcomes to it."""

    storage: Storage
    assignment: Assignment
    watcher: Watcher = field(default_factory=Watcher)
    attempts: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    alone: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # unit key -> its last outcome in this run
    interrupted: bool = False
    sweep: str = ""  # its name, shown by `raybench watch`
    resources: Resources | None = None  # of the sweep; None: what `assignment` says
    work: Work = field(default_factory=dict)  # of an epoch of each (dataset, model), where it is known: longest first
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    queue: UnitQueue = field(init=False)
    assigned: dict[str, list[str]] = field(default_factory=dict)  # Tune's trial id -> keys of units not yet reported
    batches: Batches = field(default_factory=Batches)
    tally: Tally = field(default_factory=Tally)
    _first_taken: float | None = field(init=False, default=None)  # when the first unit was given to a process
    _heartbeat: Heartbeat | None = field(init=False, default=None)

    @cached_property
    def unstarted(self) -> Wait:
        """The wait for the processes of units that were given to the executor."""
        return Wait(self.watcher.say)

    @cached_property
    def _elsewhere(self) -> Wait:
        """The wait for units that other drivers hold."""
        return Wait(self.watcher.say)

    @cached_property
    def grants(self) -> Grants:
        """What each unit asks for."""
        known = self.assignment
        said = Resources.model_construct(cpus=known.cpus, gpus=known.gpus, timeout=dict(known.timeouts))
        return Grants(self.resources or said, self.storage)

    @property
    def stop_key(self) -> str:
        """Storage key whose existence makes this run's workers stop their units."""
        return f"stops/{self.id}"

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start in the current plan."""
        return self.queue.finished

    @property
    def waiting(self) -> frozenset[str]:
        """Keys of units that were assigned to a process, which runs another one of its batch first."""
        assigned = list(self.assigned.values())  # a copy: the panel's thread reads it while the run changes it
        return frozenset(key for keys in assigned for key in keys[1:])

    @property
    def closed(self) -> frozenset[str]:
        """Keys of units that failed or were skipped in this run, which doesn't try them again."""
        return frozenset(key for key, outcome in self.outcomes.items() if outcome.status not in ("ok", "again"))

    def load(self, plan: Plan) -> None:
        """Start on another plan; units that are closed are left out."""
        for share in self.grants.load(plan.shares):
            self.watcher.say(f"gpus: auto: {share.sentence}")
        self.queue = UnitQueue(
            plan, self.attempts, self.closed, self.outcomes, self.moves, self.alone, self._shape, self.work
        )
        if self._heartbeat is None and plan.units:
            self._announce(plan)
        self.tally.begin(self.queue.units, self.outcomes)
        self.watcher.begin(self)

    def take(self) -> Unit | None:
        """The next unit to start; None when none is ready now."""
        self._check_all_postponed()
        unit = self.queue.take()
        if unit is not None:
            self.watcher.started(unit)
        self._note_wait()
        return unit

    def take_batch(
        self,
        workers: Callable[[Unit], int],
        most: Callable[[Unit], int] | None = None,
        team: bool | None = None,
    ) -> list[Unit]:
        """Units for one process to run one after the other: one, or several short ones that ask for the same.

        Args:
            workers: unit -> how many processes run units that ask for as much.
            most: unit -> how many such batches may be assigned at once; None: any number.
            team: only units that several processes run together, or only the others.
        """
        self._check_all_postponed()
        units = list(self.batches.take(self.queue, workers, self._full(most) if most else (), team))
        for unit in units:
            self.watcher.started(unit)
        if units and self._first_taken is None:
            self._first_taken = time.monotonic()
        self._note_wait()
        return units

    def over(self, outcome: Outcome) -> None:
        """Record that a unit has ended; cells that can't run because of it get their rows or wait for another plan."""
        for line in outcome.damage:
            self.watcher.say(line)
        if outcome.status == "busy":
            self.queue.postpone(outcome.key, time.monotonic())
            return
        if ran_out_of_memory(outcome) and outcome.key in self.queue.running and self._with_more_memory(outcome):
            return
        if outcome.kind == "probe" and outcome.status in ("failed", "skipped"):
            outcome = self._unmeasured(outcome)
        cells = self.queue.end(outcome)
        if outcome.status == "again":
            return
        ended = self.queue.units[outcome.key]
        if self._first_taken is not None and not self.queue.ended.keys() - {outcome.key}:
            self.batches.started(time.monotonic() - self._first_taken - outcome.seconds)
        self.batches.note(ended, outcome)
        self._count(ended, outcome)
        if share := self.grants.measured_by(ended):
            self.watcher.say(f"gpus: auto: {share.sentence}")
        for unit in cells:
            own = replace(outcome, key=unit.key, kind="cell")
            settle(own, unit.trials[0], Store(self.storage))
            self._count(unit, own)

    def lost(self, key: str, reason: str, cause: Cause = DIED) -> bool:
        """Record that the process running unit `key` died: it is started again or fails. True if it was done."""
        unit = self.queue.running.get(key)
        if unit is None:
            return False
        if is_done(unit, self.storage):  # it died after publishing the result, before reporting it
            self.over(Outcome(key, unit.kind, "ok"))
            return True
        if hung := self._hung(key):
            reason, cause = hung, HUNG
        starts_again = cause is MEMORY and self.attempts[key] < MEMORY.starts
        note = self.grants.after_memory_ran_out(unit) if starts_again else self.grants.of(unit).note
        outcome = self.queue.lost(key, reason, cause)
        if outcome is None:
            self.watcher.say(f"{unit.kind} {key}: {reason}; starting it again{', alone' if cause.alone else ''}")
            return False
        outcome = replace(outcome, stage=_last_stage(unit, self.storage), share_note=note)
        if unit.kind == "cell":
            settle(outcome, unit.trials[0], Store(self.storage))
        self.over(outcome)
        return False

    def lost_batch(self, keys: Sequence[str], reason: str, cause: Cause = DIED) -> None:
        """Record that the process died that was running `keys` in this order: the first that isn't done may be why."""
        left = iter(keys)
        for key in left:
            if not self.lost(key, reason, cause):
                break
        for key in left:  # those that it had not begun
            self.queue.give_back(key)

    def abandon(self, reason: str, by_units: bool = True, cause: Cause = DIED) -> None:
        """Record that every process running a unit died, by one of the units or not."""
        for key in self.waiting:
            self.queue.give_back(key)
        for key in list(self.queue.running):
            if by_units:
                self.lost(key, reason, cause)
            else:
                self.queue.give_back(key)
        self.assigned.clear()

    def stop(self) -> None:
        """Start nothing more, and make the workers stop their units."""
        self.interrupted = self.queue.stopped = True
        self.watcher.say("stopping: workers interrupt their units; press Ctrl-C again to end at once")
        self.storage.create(self.stop_key, b"")

    def note_interrupt(self) -> None:
        """Start nothing more after the unit that runs in this process, which Ctrl-C interrupts."""
        self.interrupted = True

    def leave(self) -> None:
        """Write to the storage how this run ended."""
        if self._heartbeat is not None:
            self._heartbeat.stop(status="ended" if self.finished and not self.interrupted else "interrupted")

    def _count(self, unit: Unit, outcome: Outcome) -> None:
        self.tally.ended(unit, outcome)
        self.watcher.ended(unit, outcome)

    def _with_more_memory(self, outcome: Outcome) -> bool:
        """Start a unit once more that found no memory: with twice its share of a GPU, else alone; whether it is."""
        unit = self.queue.running[outcome.key]
        if self.attempts[unit.key] >= MEMORY.starts:
            return False
        share = self.grants.of(unit).gpus
        self.grants.after_memory_ran_out(unit)
        cause = DEVICE_MEMORY if of_device(outcome) and 0 < share < 1 else MEMORY
        self.queue.again(unit.key, cause)
        how = "alone" if cause.alone else f"with {self.grants.of(unit).gpus:g} of a GPU"
        self.watcher.say(f"{outcome.kind} {outcome.key}: memory ran out; starting it again, {how}")
        return True

    def _unmeasured(self, outcome: Outcome) -> Outcome:
        """A probe that failed: its cells get a whole GPU each."""
        self.grants.settle_unmeasured(self.queue.units[outcome.key], f"{outcome.error_type}: {outcome.error_message}")
        return replace(outcome, status="ok")

    def _shape(self, unit: Unit) -> Hashable:
        return self.grants.of(unit).shape

    def _full(self, most: Callable[[Unit], int]) -> set[Hashable]:
        """Shapes of units of which as many batches are assigned as may be."""
        firsts = [self.queue.units[keys[0]] for keys in self.assigned.values() if keys and keys[0] in self.queue.units]
        counts = Counter(self.queue.shape(unit.key) for unit in firsts)
        one_of = {self.queue.shape(unit.key): unit for unit in firsts}
        return {shape for shape, unit in one_of.items() if counts[shape] >= most(unit)}

    def _hung(self, key: str) -> str:
        """The message of the stage at which unit `key` reached its time limit without reacting; empty if it didn't."""
        timeouts = self.grants.of(self.queue.units[key]).timeouts
        entries = list(read_journal(self.storage, key)) if timeouts else []
        return overdue(entries[-1], timeouts) if entries else ""

    def _announce(self, plan: Plan) -> None:
        """Write the plan to the storage and start this driver's heartbeat."""
        what = planned(self.sweep, plan)
        self._heartbeat = heartbeat(self.storage, self.id, what, write_plan(self.storage, what))
        self._heartbeat.say = self.watcher.say
        self._heartbeat.start()

    def _note_wait(self) -> None:
        """Say so when nothing runs for long because other drivers hold what is left."""
        if units := self.queue.elsewhere:
            self._elsewhere.lasts(lambda: for_another_run(units, self.storage))
        else:
            self._elsewhere.over()

    def _check_all_postponed(self) -> None:
        for postponed in self.queue.due(time.monotonic()):
            self._check_postponed(postponed)

    def _check_postponed(self, unit: Unit) -> None:
        """Check whether the other driver that holds `unit` has finished it, still holds it, or has died."""
        if is_done(unit, self.storage):
            self.over(Outcome(unit.key, unit.kind, "ok"))
        elif Lease(self.storage, unit.key).taken:
            self.queue.postpone(unit.key, time.monotonic())
        else:
            self.queue.resume(unit.key)


def drive(run: Run, make_plan: Callable[[], Plan], fit: Callable[[Run], None]) -> None:
    """Run by `fit` what `make_plan` finds missing, and plan again until nothing more can be run.

    It ends, because each unit has a limited number of attempts. Outcomes are in `run`. On Ctrl-C `run.interrupted` is
    set and the function returns.
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
                run.abandon(str(error), error.by_units, error.cause)
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        if run.interrupted:
            with interrupts() as requests:
                requests.heard()
        run.watcher.close()
        with suppress(OSError, UserError):  # if the storage refuses now, `raybench gc` removes it later
            if run.storage.has(run.stop_key):  # a run that wrote nothing needs no storage that can be written
                run.storage.delete(run.stop_key)
        run.leave()


def _write_skips(plan: Plan, storage: Storage) -> None:
    """Write the rows of cells that can't be run, so that every cell of the sweep has a row."""
    if not plan.skips:
        return
    store = Store(storage)
    known = store.statuses()
    for skip in plan.skips:
        if known.get(skip.trial.trial_id) != "skipped":
            store.publish(Record.skipped(skip.trial, skip.reason))


def _last_stage(unit: Unit, storage: Storage) -> str:
    """The last stage in the unit's journal, for a process that died without reporting one."""
    stages = [stage["stage"] for execution in read_journal(storage, unit.key) for stage in execution["stages"]]
    return stages[-1] if stages else unit.kind


def _give_up(run: Run) -> None:
    """Fail units that used up their attempts: each ended without error, but its result is missing."""
    for unit in list(run.queue.units.values()):
        if unit.key not in run.queue.ended and run.attempts[unit.key] >= MAX_ATTEMPTS:
            run.queue.running[unit.key] = unit
            run.lost(unit.key, "it ended without an error, but its result is not in the storage")
