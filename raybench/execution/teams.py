"""Cells on several GPUs: Ray Train's TorchTrainer, started inside a trial of Ray Tune, runs the processes of a unit.

The trial itself holds no CPU and waits. The first process runs the unit as any worker does; the others take part in its
training and evaluation (`team_work`). One run of the TorchTrainer takes unit after unit, as long as they ask for the
same: starting its processes takes some ten seconds. Ray Train starts and ends them together; results and checkpoints go
to the sweep's storage, as always, and none through Ray Train.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from raybench.execution import worker
from raybench.execution.causes import DIED, HUNG, MEMORY, NODE, Cause, cause_of, words_of
from raybench.execution.grants import Grant
from raybench.execution.mailbox import Mailbox
from raybench.execution.message import decode_grant, decode_unit, encode_outcome
from raybench.execution.team_work import POLL_S, Ended, Failed, PeerFailed, work
from raybench.storage.open import open_storage

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

STARTER = {"memory": 1.0}  # what the trial holds that starts a team: next to nothing, or it could keep the team waiting
ENVIRONMENT = {  # fewer processes beside those of the team, and its end is seen sooner
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
IDLE_S = 10.0  # a team without a unit ends then: units that ask for something else may wait for what it holds
LET_GO_S = 9.0  # after a stop, until the trial gives its team up
END_S = 30.0  # for the processes to end, until others are started without waiting
INTERRUPTED = encode_outcome(None)
KNOWN = {cause.name: cause for cause in (DIED, MEMORY, NODE, HUNG)}


class TeamFailed(Failed):
    """A team ended without the outcome of its unit."""

    def as_cause(self) -> Cause:
        """What the end counts as; an error of the code is not tried again in the same run."""
        return KNOWN.get(self.kind) or Cause(self.kind, starts=1)


class Teams:
    """Runs the units of one trial in teams: in the one that is there, if the unit asks for what that has."""

    def __init__(self, assignment: worker.Assignment, stop_key: str) -> None:
        self._assignment, self._stop_key = assignment, stop_key
        self._storage = open_storage(assignment.storage)
        self._team: Team | None = None
        self._kind: tuple[Any, ...] = ()
        self._served = 0  # units of this team that have ended

    def run(self, unit: str, grant: str) -> str | None:
        """Run an encoded unit, which has an encoded grant, to its end.

        Returns:
            Its encoded outcome; None if the run was stopped.

        Raises:
            TeamFailed: a process died, or another than the first raised an error.
        """
        team, stopped = self._with_unit(unit, grant), float("inf")
        while time.monotonic() < stopped + LET_GO_S:
            outcome = team.outcome(POLL_S)
            over = outcome is None and team.over
            outcome = outcome or (team.outcome(0.0) if over else None)  # said just before the end
            if outcome is not None:
                self._served += 1
                return None if outcome == INTERRUPTED else outcome
            if over and self._served and team.close():  # died before it took this unit
                team = self._with_unit(unit, grant)
            elif over:
                raise team.reason()
            with suppress(OSError):  # the storage is unreachable for a moment
                if stopped == float("inf") and self._storage.has(self._stop_key):
                    stopped = time.monotonic()
        return None

    def close(self, wait_s: float = END_S) -> None:
        """End the team, if there is one."""
        if self._team is not None:
            self._team.close()
            self._team.join(wait_s)
            self._team = None

    def _with_unit(self, unit: str, grant: str) -> Team:
        """A team that has got `unit`."""
        own = decode_grant(grant)
        kind = own.shape, decode_unit(unit).trials[0].device
        if self._team is not None and kind == self._kind and not self._team.over and self._team.put((unit, grant)):
            return self._team
        self.close()
        self._team, self._kind, self._served = Team(self._assignment, own, kind[1], self._stop_key), kind, 0
        self._team.put((unit, grant))
        return self._team


class Team:
    """One run of the TorchTrainer, in a thread: in the main thread Ray Train would take SIGINT for itself."""

    def __init__(self, assignment: worker.Assignment, grant: Grant, device: str, stop_key: str) -> None:
        self._mailbox = Mailbox(IDLE_S, f"{stop_key}-{uuid.uuid4().hex}")
        self._ended: TeamFailed | None = None
        config = {"assignment": assignment, "device": device, "stop_key": stop_key, "mailbox": self._mailbox}
        self._thread = threading.Thread(target=self._fit, args=(config, grant), name="team", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether its processes have ended."""
        return not self._thread.is_alive()

    def put(self, given: tuple[str, str]) -> bool:
        """Give it a unit; False if it takes no more."""
        with suppress(Exception):  # the mailbox is gone, e.g. with its node
            return self._mailbox.put(given)
        return False

    def outcome(self, wait_s: float) -> str | None:
        """The outcome of its unit; None if there is none within `wait_s`. TeamFailed if it can't be had any more."""
        try:
            return self._mailbox.outcome(wait_s)
        except Exception as error:
            raise TeamFailed(
                f"what connects the cell's processes died ({words_of(error)})", cause_of(error).name
            ) from error

    def close(self) -> bool:
        """Let it end; returns whether it has a unit that it hasn't taken."""
        with suppress(Exception):  # the mailbox may be gone
            return self._mailbox.close()
        return False

    def join(self, wait_s: float) -> None:
        """Wait until its processes have ended, at most `wait_s`."""
        self._thread.join(wait_s)

    def reason(self) -> TeamFailed:
        """Why it ended."""
        return self._ended or TeamFailed("the first process ended without a result", DIED.name)

    def _fit(self, config: Mapping[str, Any], grant: Grant) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from ray.train import TrainingFailedError

        with tempfile.TemporaryDirectory(prefix="raybench-train-", ignore_cleanup_errors=True) as folder:
            try:
                _trainer(config, grant, folder).fit()
            except TrainingFailedError as error:
                failures = dict(getattr(error, "worker_failures", {})) or {-1: error}
                self._ended = reason_of(failures, grant.processes)
            except BaseException as error:
                self._ended = reason_of({-1: error}, grant.processes)


def _trainer(config: Mapping[str, Any], grant: Grant, folder: str) -> TorchTrainer:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    failures: Any = train.FailureConfig  # Ray's annotations are those of its older API, without preemption
    return TorchTrainer(
        work,
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


def reason_of(failures: Mapping[int, BaseException], count: int) -> TeamFailed | None:
    """The failure that caused the others in a team of `count` processes; None if the first one ended them all."""
    from raybench.tasks.training.team import PeerLost

    if isinstance(failures.get(0), Ended):
        return None
    rank, error = min(failures.items(), key=lambda one: (isinstance(one[1], PeerLost), one[0]))
    where = f"process {rank + 1} of {count}" if rank >= 0 else "the processes of the cell"
    if isinstance(error, PeerFailed):
        return TeamFailed(f"{where}: {error.reason}", error.kind)
    return TeamFailed(f"{where} died ({words_of(error)})", cause_of(error).name)
