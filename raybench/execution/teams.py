"""Cells on several GPUs: Ray Train's TorchTrainer, started inside a trial of Ray Tune, runs the processes of a unit.

The trial itself holds no CPU and waits. The first process runs the unit as any worker does; the others take part in its
training and evaluation. Ray Train starts and ends the processes together; results and checkpoints go to the sweep's
storage, as always, and none through Ray Train.
"""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raybench.execution import worker
from raybench.execution.causes import DIED, HUNG, MEMORY, NODE, Cause, cause_of, words_of
from raybench.execution.grants import Grant
from raybench.execution.limits import own_this_process
from raybench.execution.message import decode_unit, encode_outcome
from raybench.plan.records import Unit
from raybench.storage.open import open_storage

if TYPE_CHECKING:
    import torch
    from ray.train.torch import TorchTrainer

    from raybench.tasks.training.team import Peers

STARTER = {"memory": 1.0}  # what the trial holds that starts a team: next to nothing, or it could keep the team waiting
ENVIRONMENT = {  # fewer processes beside those of the team, and its end is seen sooner
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
PAUSE_S = 5.0  # a process that fails waits so long before it says so: the one that failed first is heard first
POLL_S = 1.0
LET_GO_S = 9.0  # after a stop, until the trial gives its team up
KNOWN = {cause.name: cause for cause in (DIED, MEMORY, NODE, HUNG)}


class _Failed(Exception):
    """Plain text, as Ray pickles it; `kind` names a cause, or the type of an error."""

    def __init__(self, reason: str, kind: str) -> None:
        self.reason, self.kind = reason, kind
        super().__init__(reason, kind)


class PeerFailed(_Failed):
    """Another process than the first raised an error."""


class TeamFailed(_Failed):
    """A team ended without outcomes."""

    def as_cause(self) -> Cause:
        """What the end counts as; an error of the code is not tried again in the same run."""
        return KNOWN.get(self.kind) or Cause(self.kind, starts=1)


class Ended(Exception):
    """The first process has the outcomes, but is no longer where the others are: all are to be ended."""

    def __init__(self, outcomes: list[str]) -> None:
        self.outcomes = outcomes
        super().__init__(outcomes)


def run_together(units: Sequence[str], grant: Grant, assignment: worker.Assignment, stop_key: str) -> list[str]:
    """Run units one after the other in the processes of one team.

    Args:
        units: encoded; all ask for the same.
        grant: what each process has, and how many there are.
        assignment: of the run.
        stop_key: the key whose existence ends the run.

    Returns:
        The encoded outcomes; fewer than units if the run was stopped.

    Raises:
        TeamFailed: a process died, or another than the first raised an error.
    """
    ended: list[list[str] | BaseException] = []
    config = {"units": list(units), "assignment": assignment.granting(grant), "stop_key": stop_key}
    storage, stopped = open_storage(assignment.storage), float("inf")
    with tempfile.TemporaryDirectory(prefix="raybench-train-", ignore_cleanup_errors=True) as folder:
        # in a thread, as Tune runs function trainables: in the main thread Ray Train would take SIGINT for itself
        waiting = threading.Thread(target=lambda: ended.append(_fitted(config, grant, folder)), daemon=True)
        waiting.start()
        while waiting.is_alive() and time.monotonic() < stopped + LET_GO_S:
            waiting.join(POLL_S)
            with suppress(OSError):  # the storage is unreachable for a moment
                if stopped == float("inf") and storage.has(stop_key):
                    stopped = time.monotonic()
    if not ended:
        return []
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def _fitted(config: Mapping[str, Any], grant: Grant, folder: str) -> list[str] | BaseException:
    """The outcomes of a team, or why there are none."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray.train import TrainingFailedError

    try:
        result: Any = _trainer(config, grant, folder).fit()
    except TrainingFailedError as error:
        return _outcomes_or_reason(dict(getattr(error, "worker_failures", {})) or {-1: error}, grant.processes)
    except BaseException as error:
        return error
    if result.return_value is None:
        return TeamFailed("the first process ended without a result", DIED.name)
    return list(result.return_value)


def _trainer(config: Mapping[str, Any], grant: Grant, folder: str) -> TorchTrainer:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    # Ray's annotations are those of its older API, which had no results of a loop and no preemption
    loop: Any = work
    failures: Any = train.FailureConfig
    return TorchTrainer(
        loop,
        train_loop_config=dict(config),
        scaling_config=train.ScalingConfig(
            num_workers=grant.processes, use_gpu=grant.gpus > 0, resources_per_worker=grant.demand
        ),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if grant.gpus else "gloo"),
        run_config=train.RunConfig(
            name="team",
            storage_path=folder,
            failure_config=failures(max_failures=0, max_preemption_failures=0),  # the run starts units again
        ),
    )


def _outcomes_or_reason(failures: Mapping[int, BaseException], count: int) -> list[str] | TeamFailed:
    """What a team of `count` processes ended with: outcomes of the first, or the failure that caused the others."""
    from raybench.tasks.training.team import PeerLost

    first = failures.get(0)
    if isinstance(first, Ended):
        return first.outcomes
    rank, error = min(failures.items(), key=lambda one: (isinstance(one[1], PeerLost), one[0]))
    where = f"process {rank + 1} of {count}" if rank >= 0 else "the processes of the cell"
    if isinstance(error, PeerFailed):
        return TeamFailed(f"{where}: {error.reason}", error.kind)
    return TeamFailed(f"{where} died ({words_of(error)})", cause_of(error).name)


def work(config: Mapping[str, Any]) -> list[str]:
    """What every process of a team runs; Ray Train has connected them. Returns the outcomes in the first one."""
    from raybench.tasks.training.team import PeerLost, Peers

    own_this_process()
    assignment = config["assignment"]
    worker.install_plugins(assignment.plugins)
    worker.preload()
    units = [decode_unit(text) for text in config["units"]]
    device = _device(assignment, units[0].trials[0].device)
    assignment, team = replace(assignment, device=str(device)), Peers(device)
    host = socket.gethostname()
    elsewhere = team.agreed(host) != host
    try:
        if team.rank == 0:
            with _stopped_by(assignment.storage, config["stop_key"]):
                return _lead(team, units, assignment)
        while (number := team.hear()) is not None:
            worker.take_part_in(units[number], assignment, team, elsewhere=elsewhere)
        return []
    except PeerLost:
        time.sleep(PAUSE_S if team.rank else 2 * PAUSE_S)
        if team.rank:
            return []
        raise
    except Exception as error:
        if not team.rank:
            raise
        time.sleep(PAUSE_S)
        raise _portable(error) from None


def _lead(team: Peers, units: Sequence[Unit], assignment: worker.Assignment) -> list[str]:
    """Run `units` in the first process, each with the others waiting for its calls."""
    outcomes: list[str] = []
    for number, unit in enumerate(units):
        team.say(number)
        try:
            outcome = worker.execute(unit, assignment, team=team)
        except KeyboardInterrupt:
            outcome = None
        outcomes.append(encode_outcome(outcome))
        if outcome is None or not team.whole:
            raise Ended(outcomes)
        team.say(None)
    team.say(None)
    return outcomes


def _portable(error: Exception) -> PeerFailed:
    cause = cause_of(error)
    return PeerFailed(f"{type(error).__name__}: {error}", type(error).__name__ if cause is DIED else cause.name)


def _device(assignment: worker.Assignment, kind: str) -> torch.device:
    """This process's own device: the GPU that Ray Train gave it, where the trial was planned for GPUs."""
    if kind != "cuda":
        return worker.device_of(assignment, kind)
    from ray.train.torch import get_device

    found: torch.device = get_device()
    return found


@contextmanager
def _stopped_by(address: str, key: str) -> Iterator[None]:
    """Context of this thread in which it gets a KeyboardInterrupt once `key` exists in the storage at `address`.

    Ray Train runs it in a thread of its own, which no signal reaches.
    """
    over, me, storage = threading.Event(), threading.get_ident(), open_storage(address)

    def watch() -> None:
        while not over.wait(POLL_S):
            with suppress(OSError):
                if storage.has(key) and not over.is_set():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), ctypes.py_object(KeyboardInterrupt))
                    return

    threading.Thread(target=watch, name="stop signal", daemon=True).start()
    try:
        yield
    finally:
        over.set()
