"""Executor on Ray Tune: one Tune run, whose searcher suggests the units that are ready."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.error import TuneError
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import ConcurrencyLimiter, Searcher

from raybench.execution.actor import OUTCOMES, Recycle, UnitTrial
from raybench.execution.capacity import concurrency, slots
from raybench.execution.causes import cause_of
from raybench.execution.cluster import demand
from raybench.execution.contact import was_away
from raybench.execution.driver import Aborted, Run
from raybench.execution.interrupt import interrupts
from raybench.execution.message import decode_outcome, encode_unit
from raybench.sweep.resources import Resources

_RUNS: dict[str, Run] = {}  # run id -> run: Tune pickles searchers and callbacks, so these hold the id only


def executor(
    resources: Resources, address: str | None = None, trainable: type[UnitTrial] = UnitTrial
) -> Callable[[Run], None]:
    """The `fit` argument of `drive` that runs units on the Ray that this process is connected to."""
    request = demand(resources)
    limit, held = concurrency(request, address), slots(request)
    return lambda run: fit(run, _named(trainable, run, request), min(limit, len(run.queue.units)), held)


def fit(run: Run, trainable: type, limit: int, workers: int) -> None:
    """Run the current plan as one Tune run, at most `limit` trials at once. Raises Aborted when Tune itself crashes.

    `workers`: how many processes the cluster holds now; short units are divided among so many.
    """
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
                    search_alg=ConcurrencyLimiter(UnitSearcher(run.id, workers), max_concurrent=limit),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=run.id,
                    storage_path=folder,
                    verbose=0,
                    callbacks=[CrashedTrials(run.id)],
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            tuner.fit()
    except (RuntimeError, TuneError) as error:
        raise Aborted(f"Ray Tune crashed ({_cause(error)})", not was_away(), cause_of(error)) from error
    finally:
        del _RUNS[run.id]


class UnitSearcher(Searcher):
    """Suggests the next ready units, None while none is ready, FINISHED at the end of the plan.

    A trial is one unit, or a batch of short ones that its process runs one after the other.
    """

    def __init__(self, run_id: str, workers: int) -> None:
        super().__init__()
        self._run_id, self._workers = run_id, workers

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray leaves out FINISHED
        """Config of the next trial."""
        run = _RUNS[self._run_id]
        units = run.take_batch(self._workers)
        if not units:
            return Searcher.FINISHED if run.finished else None
        run.assigned[trial_id] = [unit.key for unit in units]
        return {"units": [encode_unit(unit) for unit in units], "key": units[0].key}

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
        recycled, keys = _recycled(error), run.assigned.pop(trial.trial_id)
        if recycled is None:
            run.lost_batch(keys, _cause(error), cause_of(error))
            return
        run.watcher.say(f"replacing a worker: {recycled.excess}")
        ended = {outcome.key: outcome for outcome in filter(None, map(decode_outcome, recycled.outcomes))}
        for key in keys:
            if key in ended:
                run.over(ended[key])
            else:
                run.queue.give_back(key)


def _named(trainable: type[UnitTrial], run: Run, request: dict[str, float]) -> type:
    """A subclass with a name of its own for each run: Ray identifies the trainables of a cluster by name."""
    name = f"raybench_{run.id}"
    own = type(name, (trainable,), {"assignment": run.assignment, "stop_key": run.stop_key})
    ready = tune.with_resources(own, PlacementGroupFactory([dict(request)]))
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


def _recycled(error: BaseException) -> Recycle | None:
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, Recycle):
        chain = getattr(chain, "cause", None) or chain.__cause__
    return chain


def _cause(error: BaseException) -> str:
    """Type and last line of an error that Ray wrapped, without its traceback."""
    with suppress(IndexError):
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()}"
    return type(error).__name__
