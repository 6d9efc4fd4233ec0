"""Runs queued sweeps one after the other, each as a process of its own: `raybench run`, which can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from raybench.errors import UserError
from raybench.serve.children import start
from raybench.serve.runs import RunRecord, Runs, Status
from raybench.serve.settings import Settings
from raybench.serve.where import arguments, is_dashboard, stop_job

MOST_QUEUED = 100
GRACE_S = 25.0  # `raybench run` ends by itself within 15 s of a signal
JOB_GRACE_S = 70.0  # `raybench stop` waits a minute for a job
LOOK_S = 0.2
INTERRUPTED = 130
ENDS: dict[int, Status] = {0: "ok", INTERRUPTED: "stopped"}


class Queue:
    """The queue of a server: one thread that runs what waits, the oldest first."""

    def __init__(self, settings: Settings, runs: Runs) -> None:
        self._settings, self._runs = settings, runs
        self._grace = JOB_GRACE_S if is_dashboard(settings.address) else GRACE_S
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
        self._thread.start()

    def check_room(self) -> None:
        """UserError when too much is waiting."""
        if sum(one.open for one in self._runs.all()) >= MOST_QUEUED:
            raise UserError(f"queue: found {MOST_QUEUED} sweeps, expected fewer: wait, or stop some")

    def notify(self) -> None:
        """A run was added."""
        self._wake.set()

    def stop(self, run: str) -> RunRecord:
        """Stop a run: at once if it waits, else its process gets a signal. UserError when it has ended."""
        changed = self._runs.change(run, only=("queued",), status="stopped", ended=time.time())
        changed = changed or self._runs.change(run, only=("running", "stopping"), status="stopping")
        if changed is None:
            raise UserError(f"{run}: found it {self._runs.get(run).status}, expected a run that waits or runs")
        return changed

    def retry(self, run: str) -> RunRecord:
        """Queue an ended run again: what is missing or failed is computed. UserError when it has not ended."""
        self.check_room()
        one = self._runs.get(run)
        ended: tuple[Status, ...] = ("ok", "failed", "stopped", "lost")
        changed = self._runs.change(run, only=ended, status="queued", attempt=one.attempt + 1, ended=None)
        if changed is None:
            raise UserError(f"{run}: found it {one.status}, expected a run that has ended")
        self.notify()
        return changed

    def close(self) -> None:
        """Stop what runs and wait for it; what waits is kept for the next server."""
        self._closing.set()
        self._wake.set()
        self._thread.join(self._grace + 5)

    def _work(self) -> None:
        while not self._closing.is_set():
            waiting = [one for one in reversed(self._runs.all()) if one.status == "queued"]
            if not waiting:
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            one = self._runs.change(waiting[0].id, only=("queued",), status="running", started=time.time())
            if one is not None:
                self._run(one)

    def _run(self, one: RunRecord) -> None:
        """One attempt of a run, to its end."""
        sweep = self._runs.place(one.id, "sweep.yaml")
        own = Path(one.folder) if one.folder else None
        folder = own or sweep.parent
        with open(self._runs.place(one.id, "log.txt"), "ab") as log:
            log.write(
                f"{'' if one.attempt == 1 else chr(10)}attempt {one.attempt}, {time.strftime('%F %T')}\n".encode()
            )
            log.flush()
            try:
                process = start(arguments(self._settings, sweep, own), folder, log)
            except OSError as error:
                log.write(f"can't be started: {error}\n".encode())
                self._runs.change(one.id, status="failed", ended=time.time(), exit_code=None)
                return
            code = self._wait(one.id, process, lambda: self._tell(one.id, process, folder, log))
        asked = self._runs.get(one.id).status == "stopping" or self._closing.is_set()
        status = "stopped" if asked and code else ENDS.get(code, "failed")
        self._runs.change(one.id, status=status, ended=time.time(), exit_code=code)

    def _tell(self, run: str, process: subprocess.Popen[bytes], folder: Path, log: IO[bytes]) -> None:
        """Ask a run to end: its job on a cluster, which ends the process that follows it, else the process."""
        if stop_job(self._settings, self._runs.tail(run), folder, log) is None:
            process.send_signal(signal.SIGTERM)

    def _wait(self, run: str, process: subprocess.Popen[bytes], tell: Callable[[], None]) -> int:
        """The exit code of the process; it is told to stop when somebody asked, and killed if it doesn't."""
        asked_at: float | None = None
        while True:
            try:
                return process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                pass
            if asked_at is None and (self._closing.is_set() or self._runs.get(run).status == "stopping"):
                tell()
                asked_at = time.monotonic()
            elif asked_at is not None and time.monotonic() - asked_at > self._grace:
                os.killpg(process.pid, signal.SIGKILL)
