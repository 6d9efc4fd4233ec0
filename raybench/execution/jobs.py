"""Sweeps as jobs of a Ray cluster, through Ray Jobs: submit, list, follow, stop.

A submission id is ``raybench-<sweep hash>-<attempt>``. Ray refuses an id that exists, so two people who submit the same
sweep get the same job. Ray never accepts an id again, so a sweep whose last job has ended gets the next attempt.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raybench.errors import UserError, nearest

ANSWER_S = 10.0  # timeout of every answer; a longer wait prints a line
AGENT_S = 90.0  # a cluster that has just started may have no job agent for this long
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
NO_EXTRA = "the cluster verbs need Ray's job client: pip install 'raybench[cluster]'"
_ID = re.compile(r"raybench-([0-9a-f]{16})-([0-9]+)")


@dataclass(frozen=True)
class Job:
    """One submitted sweep, as the cluster reports it. Times in seconds since 1970."""

    id: str
    status: str  # PENDING, RUNNING, or one of ENDED
    message: str | None
    sweep: str | None
    storage: str | None
    started: float | None
    ended: float | None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDED


class Jobs:
    """The jobs of the cluster whose dashboard is at `address` (``http://HEAD:8265``).

    Raises UserError when nothing answers there, when the token is missing or wrong, and when it is no Ray cluster.
    `say` is called with a line about why a call takes long.
    """

    def __init__(self, address: str, say: Callable[[str], None] = lambda text: None) -> None:
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise UserError(NO_EXTRA) from error
        self._say = say

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = address if "://" in address else f"http://{address}"
        if not self.address.startswith(("http://", "https://")):
            raise UserError(f"--address {address!r}: expected the dashboard's http://HEAD:8265, not the cluster's port")
        self._headers = {"Authorization": f"Bearer {token}"} if (token := read_token()) else {}
        self.ray_version = self._read_version()
        with _only_this_address(), self._errors():
            try:
                self._client = JobSubmissionClient(self.address, headers=dict(self._headers))
            except RuntimeError as error:
                raise UserError(NO_EXTRA if "ray[default]" in str(error) else str(error)) from error
        # Ray's client waits forever for an answer; what it doesn't know of it passes on to `requests`
        if send := getattr(self._client, "_do_request", None):  # a private part: without it a silent head is waited for
            self._client._do_request = partial(send, timeout=ANSWER_S)  # type: ignore[method-assign]

    def list(self) -> list[Job]:
        """Every job that raybench submitted, the newest first."""
        with self._errors():
            every = self._client.list_jobs()
        found = [_job(details) for details in every if _ID.fullmatch(details.submission_id or "")]
        return sorted(found, key=lambda job: (job.started or 0, attempt(job.id)), reverse=True)

    def find(self, prefix: str | None) -> Job:
        """The job whose id starts with `prefix` (``raybench-`` may be left out); the newest for None."""
        jobs = self.list()
        if prefix is None:
            if not jobs:
                raise UserError(f"the cluster at {self.address} has no jobs submitted by raybench")
            return jobs[0]
        wanted = prefix if prefix.startswith("raybench-") else f"raybench-{prefix}"
        found = [job for job in jobs if job.id == wanted] or [job for job in jobs if job.id.startswith(wanted)]
        if not found:
            hint = nearest(wanted, [job.id for job in jobs]) or " raybench jobs lists them"
            raise UserError(f"no job {prefix!r} at {self.address}.{hint}")
        if len({job.id.rpartition("-")[0] for job in found}) > 1:
            raise UserError(f"job {prefix!r} is not unique: {', '.join(job.id for job in found)}")
        return max(found, key=lambda job: attempt(job.id))  # several attempts of one sweep: the last one

    def submit(
        self, sweep_hash: str, entrypoint: str, folder: Path, env: Mapping[str, str], metadata: Mapping[str, str]
    ) -> tuple[Job, bool]:
        """(the sweep's job, whether this call started it). A sweep whose last job still runs is not submitted again.

        `entrypoint` runs on the head node in a copy of `folder`.
        """
        runtime = {"working_dir": str(folder), "env_vars": dict(env)}
        while True:
            known = [job for job in self.list() if job.id.startswith(f"raybench-{sweep_hash}-")]
            last = max(known, key=lambda job: attempt(job.id), default=None)
            if last is not None and not last.is_over:
                return last, False
            job_id = f"raybench-{sweep_hash}-{attempt(last.id) + 1 if last else 1}"
            if self._start(job_id, entrypoint, runtime, dict(metadata)):
                return self.find(job_id), True

    def logs(self, job_id: str) -> str:
        """What the job has printed so far."""
        with self._errors():
            return self._client.get_job_logs(job_id)

    def follow(self, job_id: str, period: float = 1.0) -> Iterator[str]:
        """New output of the job as it comes, until the job is over. `period` in seconds."""
        seen, began, reported = 0, time.monotonic(), False
        while True:
            job = self.find(job_id)
            over = job.is_over
            text = self.logs(job_id)
            if job.status == "PENDING" and not reported and time.monotonic() - began >= ANSWER_S:
                reported = True
                self._say(f"job {job_id} is pending: waiting until the cluster starts it, Ctrl-C ends")
            if len(text) > seen:
                yield text[seen:]
                seen = len(text)
            if over:
                return
            time.sleep(period)

    def stop(self, job_id: str, patience: float = 60.0) -> Job:
        """Stop the job and wait up to `patience` seconds until it has ended. Finished cells stay in its storage."""
        with self._errors():
            self._client.stop_job(job_id)
        end = time.monotonic() + patience
        while not (job := self.find(job_id)).is_over:
            if time.monotonic() > end:
                raise UserError(
                    f"job {job_id} is still {job.status.lower()} after {patience:.0f} s; see raybench logs {job_id}"
                )
            time.sleep(0.5)
        return job

    def _start(self, job_id: str, entrypoint: str, runtime: dict[str, Any], metadata: dict[str, str]) -> bool:
        """Submit the job; False when somebody else has submitted this id meanwhile."""
        import requests

        began, warned = time.monotonic(), False
        while True:
            try:
                with self._errors():
                    self._client.submit_job(
                        submission_id=job_id, entrypoint=entrypoint, runtime_env=runtime, metadata=metadata
                    )
                return True
            except UserError as error:
                if not isinstance(error.__cause__, requests.exceptions.ReadTimeout):
                    raise
                last: Exception = error
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                if "No available agent" not in str(error):
                    raise UserError(f"the cluster at {self.address} refuses the job: {error}") from error
                last = error
            waited = time.monotonic() - began
            if waited > AGENT_S:
                raise UserError(f"{self._no_agent()}; nothing was submitted") from last
            if waited >= ANSWER_S and not warned:
                warned = True
                self._say(f"{self._no_agent()}; waiting up to {AGENT_S:.0f} s, Ctrl-C ends")
            time.sleep(1.0)

    def _no_agent(self) -> str:
        return f"the head at {self.address} answers, but its job agent doesn't (a cluster that starts needs a while)"

    def _read_version(self) -> str:
        """The cluster's version of Ray."""
        import requests

        try:
            answer = requests.get(f"{self.address}/api/version", headers=self._headers, timeout=ANSWER_S)
        except requests.exceptions.RequestException as error:
            raise self._unreachable(error) from error
        self._check_token(answer.status_code)
        try:
            return answer.json()["ray_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.address} answers (HTTP {answer.status_code}), but is no Ray dashboard; "
                "expected http://HEAD:8265"
            ) from error

    def _check_token(self, status: int) -> None:
        if status == 401:
            raise UserError(
                f"the cluster at {self.address} requires a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            )
        if status == 403:
            raise UserError(f"the cluster at {self.address} refuses this token; expected the token of its head node")

    def _unreachable(self, error: Exception) -> UserError:
        if "Read timed out" in str(error) and hasattr(self, "ray_version"):
            return UserError(f"{self._no_agent()}: no answer within {ANSWER_S:.0f} s")
        return UserError(
            f"no answer from {self.address} ({_reason(error)}); is the cluster up, and its dashboard's port open?"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            self._check_token(401 if "required" in str(error) else 403)
            raise
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise self._unreachable(error) from error


def _reason(error: Exception) -> str:
    """The operating system's words in an error of requests, which quotes errors inside errors; else its class."""
    if "Timeout" in type(error).__name__:
        return f"nothing within {ANSWER_S:.0f} s"
    found = re.search(r"\[Errno -?\d+\] ([\w ,.-]+)", str(error))
    return found[1].strip() if found else type(error).__name__


def attempt(job_id: str) -> int:
    """The attempt number in a submission id."""
    return int(job_id.rpartition("-")[2])


def read_token() -> str | None:
    """The cluster's token: ``RAY_AUTH_TOKEN``, else the file at ``RAY_AUTH_TOKEN_PATH``, else Ray's own file.

    Ray's file (``~/.ray/auth_token``) is used only with ``RAY_AUTH_MODE=token``: any local run may have left it there.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray/auth_token"
    if named or (os.environ.get("RAY_AUTH_MODE") == "token" and file.exists()):
        try:
            return file.read_text().strip()
        except OSError as error:
            raise UserError(f"RAY_AUTH_TOKEN_PATH: can't read {file}: {error.strerror}") from error
    return None


@contextmanager
def _only_this_address() -> Iterator[None]:
    """Hide RAY_ADDRESS from Ray, which would prefer it to the address that the user typed."""
    hidden = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message,
        sweep=metadata.get("sweep"),
        storage=metadata.get("storage"),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
    )
