"""Executor on Ray Tune: one Tune run, whose searcher suggests the units that are ready."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ray import cloudpickle, tune
from ray.tune.error import TuneError
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import ConcurrencyLimiter, Searcher

from raybench.execution.actor import OUTCOMES, Recycle, UnitTrial
from raybench.execution.capacity import awaited, concurrency, slots
from raybench.execution.causes import MONITOR, cause_of, words_of
from raybench.execution.contact import was_away
from raybench.execution.driver import Aborted, Run
from raybench.execution.grants import Grant, granted
from raybench.execution.interrupt import interrupts
from raybench.execution.mailbox import waits_of
from raybench.execution.message import decode_outcome, encode_grant, encode_unit
from raybench.execution.teams import STARTER, TeamFailed
from raybench.progress.journal import read_journal
from raybench.progress.outcome import label_of
from raybench.sweep.resources import Resources

CLOCKS_S = 60.0  # by which the clocks of two machines may differ
E = TypeVar("E", bound=BaseException)
_RUNS: dict[str, Run] = {}  # run id -> run: Tune pickles searchers and callbacks, so these hold the id only


def executor(
    resources: Resources, address: str | None = None, trainable: type[UnitTrial] = UnitTrial
) -> Callable[[Run], None]:
    """The `fit` argument of `drive` that runs units on the Ray that this process is connected to.

    UserError when no node can hold a unit of one of the models.
    """
    room = Room(address)
    limits = [room.most(granted(resources.of(model))) for model in ("", *resources.models)]
    limit = max(limits) if address else sum(limits)
    return lambda run: fit(run, _named(trainable, run), min(limit, len(run.queue.units)), room)


class Room:
    """How many units that ask for the same the cluster holds now, and how many trials of them are submitted at once."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._most: dict[tuple[tuple[str, float], ...], int] = {}
        self._held: dict[tuple[tuple[str, float], ...], int] = {}

    def most(self, grant: Grant) -> int:
        """How many trials are submitted at once. UserError when no node can hold one."""
        if grant.shape not in self._most:
            self._most[grant.shape] = concurrency(grant.demand, self._address, grant.processes)
        return self._most[grant.shape]

    def workers(self, grant: Grant) -> int:
        """How many units the cluster holds now; short ones are divided among so many."""
        if grant.shape not in self._held:
            self._held[grant.shape] = slots(grant.demand, grant.processes)
        return self._held[grant.shape]


def fit(run: Run, trainable: type, limit: int, room: Room) -> None:
    """Run the current plan, at most `limit` trials at once. Raises Aborted when Tune itself crashes.

    Units that teams of processes run have a Tune run of their own, after the others: Tune keeps a process for its next
    trial and doesn't know that a team, whose processes Ray Train starts, waits for what that process holds.
    """
    for team in (False, True):
        if not run.queue.over(team):
            _fit(run, trainable, limit, room, team)


def _fit(run: Run, trainable: type, limit: int, room: Room, team: bool) -> None:
    """One Tune run."""
    _RUNS[run.id] = run
    try:
        with (
            tempfile.TemporaryDirectory(prefix="raybench-tune-") as folder,
            interrupts() as requests,
            requests.stopping(run.stop),
        ):
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=ConcurrencyLimiter(UnitSearcher(run.id, room, team), max_concurrent=limit),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=run.id,
                    storage_path=folder,
                    verbose=0,
                    callbacks=[CrashedTrials(run.id), Waits(run.id, team)],
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            tuner.fit()
    except (RuntimeError, TuneError) as error:
        words = words_of(error)
        reason = words if words.startswith(MONITOR) else f"Ray Tune crashed ({words})"
        raise Aborted(reason, not was_away(), cause_of(error)) from error
    finally:
        del _RUNS[run.id]


class UnitSearcher(Searcher):
    """Suggests the next ready units, None while none is ready, FINISHED at the end of the plan.

    A trial is one unit, or a batch of short ones that its process runs one after the other.
    """

    def __init__(self, run_id: str, room: Room, team: bool) -> None:
        super().__init__()
        self._run_id, self._room, self._team = run_id, room, team

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray leaves out FINISHED
        """Config of the next trial."""
        run = _RUNS[self._run_id]
        units = run.take_batch(
            lambda unit: self._room.workers(run.grants.of(unit)),
            lambda unit: self._room.most(run.grants.of(unit)),
            self._team,
        )
        if not units:
            return Searcher.FINISHED if run.queue.over(self._team) else None
        run.assigned[trial_id] = [unit.key for unit in units]
        grants = [run.grants.of(unit) for unit in units]
        return {
            "units": [encode_unit(unit) for unit in units],
            "grants": [encode_grant(grant) for grant in grants],
            "demand": grants[0].demand if grants[0].processes == 1 else STARTER,
            "key": units[0].key,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the outcomes of units of a batch."""
        run = _RUNS[self._run_id]
        for outcome in filter(None, map(decode_outcome, result.get(OUTCOMES, ()))):
            if outcome.key in run.assigned[trial_id]:
                run.assigned[trial_id].remove(outcome.key)
                run.over(outcome)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the last outcome of a trial. Trials that crashed are handled by `CrashedTrials`."""
        if error:
            return
        self.on_trial_result(trial_id, result or {})
        run = _RUNS[self._run_id]
        for key in run.assigned.pop(trial_id):  # interrupted, or not started
            run.queue.give_back(key)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: Tune's snapshots are never restored, the storage is the only state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """See `save`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class CrashedTrials(tune.Callback):
    """Reports to the run the units whose process died, or was replaced because of its memory."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Handle a trial that raised: a dead process or a Recycle. A unit's own failure is an outcome, not an error."""
        run, error = _RUNS[self._run_id], _error_of(trial)
        recycled, keys = _in_chain(error, Recycle), run.assigned.pop(trial.trial_id)
        if recycled is None:
            failed = _in_chain(error, TeamFailed)
            reason, cause = (failed.reason, failed.as_cause()) if failed else (words_of(error), cause_of(error))
            run.lost_batch(keys, reason, cause)
            return
        run.watcher.say(f"replacing a worker: {recycled.excess}")
        ended = {outcome.key: outcome for outcome in filter(None, map(decode_outcome, recycled.outcomes))}
        for key in keys:
            if key in ended:
                run.over(ended[key])
            else:
                run.queue.give_back(key)


class Waits(tune.Callback):
    """Says what the units wait for that have no process yet, where none has one.

    `team`: units of several processes, whose trials run while the processes are still to start; the journal says when
    they have.
    """

    def __init__(self, run_id: str, team: bool) -> None:
        self._run_id, self._team = run_id, team
        self._began = time.time() - CLOCKS_S  # earlier entries are of processes that died

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Look after each step of Tune's loop."""
        run = _RUNS[self._run_id]
        if not run.assigned or (not self._team and any(trial.status == TuneTrial.RUNNING for trial in trials)):
            run.unstarted.over()
        else:
            run.unstarted.lasts(lambda: self._words(run))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """A unit has run."""
        _RUNS[self._run_id].unstarted.over()

    def _words(self, run: Run) -> str:
        units = [run.queue.units[keys[0]] for keys in run.assigned.values() if keys]
        entries = [entry for unit in units for entry in read_journal(run.storage, unit.key)]
        if not units or any(one["status"] == "running" and one["started"] > self._began for one in entries):
            return ""
        first, label = run.grants.of(units[0]), f"{units[0].kind} {label_of(units[0])}"
        begun = waits_of(run.stop_key, units[0].key, first.processes) if self._team else ""
        return f"{label}: {begun}" if begun else awaited(label, first.demand, first.processes)


def _named(trainable: type[UnitTrial], run: Run) -> type:
    """A subclass with a name of its own for each run: Ray identifies the trainables of a cluster by name."""
    name = f"raybench_{run.id}"
    own = type(name, (trainable,), {"assignment": run.assignment, "stop_key": run.stop_key})
    ready = tune.with_resources(own, lambda config: PlacementGroupFactory([dict(config["demand"])]))
    ready.__name__ = name
    return ready


def _name(trial: TuneTrial) -> str:
    return f"{trial.config['key']}-{trial.trial_id}"


def _error_of(trial: TuneTrial) -> BaseException:
    """The exception that ended a trial, from the file in which Tune keeps it."""
    if trial.pickled_error_file:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return RuntimeError(
        Path(trial.error_file).read_text() if trial.error_file else "a trial ended without an error message"
    )


def _in_chain(error: BaseException, kind: type[E]) -> E | None:
    """The error of a `kind` that Ray wrapped in `error`."""
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, kind):
        chain = getattr(chain, "cause", None) or chain.__cause__
    return chain
