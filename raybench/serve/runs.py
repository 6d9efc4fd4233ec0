"""Records of queued sweeps, one folder each: its sweep file, its plan, its log, and how it stands."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from raybench.errors import UserError
from raybench.serve.form import Wanted

Status = Literal["queued", "running", "stopping", "ok", "failed", "stopped", "lost"]
OPEN: tuple[Status, ...] = ("queued", "running", "stopping")
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
TAIL_BYTES = 16_384


@dataclass(frozen=True)
class RunRecord:
    """One queued sweep. Times in seconds since 1970.

    Attributes:
        id: its name in addresses and folders.
        name: the sweep's.
        status: queued, running, stopping; ok (all cells ended), failed, stopped; lost: the server ended while it ran.
        attempt: 1, and one more for each retry.
        model: its model.
        dataset: its dataset.
        methods: its methods.
        folder: from which its own modules are imported; None without any.
        cells: number of its cells.
        created: when it was queued first.
        started: when its last attempt began.
        ended: when its last attempt ended.
        exit_code: of its last attempt.
    """

    id: str
    name: str
    status: Status
    attempt: int
    model: str
    dataset: str
    methods: tuple[str, ...]
    folder: str | None
    cells: int
    created: float
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None

    @property
    def open(self) -> bool:
        """Whether it waits or runs."""
        return self.status in OPEN

    @property
    def text(self) -> str:
        """What the filter of the history looks at."""
        return " ".join((self.name, self.model, self.dataset, *self.methods, self.id)).lower()


class Runs:
    """All queued sweeps of a server. Safe for several threads."""

    def __init__(self, work: Path) -> None:
        self._folder = folder = work / "runs"
        self._held = _held(work)
        self._lock = threading.Lock()
        self._known: dict[str, RunRecord] = {}
        for file in sorted(folder.glob("*/run.json")):
            one = _read(file)
            if one is not None:
                self._known[one.id] = replace(one, status="lost") if one.status in ("running", "stopping") else one

    def close(self) -> None:
        """Let another server use the folder."""
        self._held.close()

    def all(self) -> list[RunRecord]:
        """Every run, the newest first."""
        with self._lock:
            return sorted(self._known.values(), key=lambda one: (one.created, one.id), reverse=True)

    def get(self, run: str) -> RunRecord:
        """A run; UserError when there is none of that id."""
        with self._lock:
            if run not in self._known:
                raise UserError(f"found no run {run[:40]!r}")
            return self._known[run]

    def place(self, run: str, file: str) -> Path:
        """A file of a run that exists."""
        return self._folder / self.get(run).id / file

    def add(self, wanted: Wanted, plan: Mapping[str, Any]) -> RunRecord:
        """Keep a new run, queued."""
        now = time.time()
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}"
        one = RunRecord(name, wanted.name, "queued", 1, wanted.model, wanted.dataset, wanted.methods,
                        str(wanted.folder) if wanted.folder else None, len(plan["cells"]), now)  # fmt: skip
        place = self._folder / name
        place.mkdir(parents=True)
        (place / "sweep.yaml").write_text(wanted.yaml, "utf-8")
        (place / "plan.json").write_text(json.dumps({"cells": plan["cells"]}), "utf-8")
        return self._keep(one)

    def change(self, run: str, *, only: tuple[Status, ...] | None = None, **fields: Any) -> RunRecord | None:
        """Change fields of a run; with `only` None, and nothing done, when it has another status by now."""
        with self._lock:
            one = self._known[run]
            if only is not None and one.status not in only:
                return None
            return self._keep_locked(replace(one, **fields))

    def cells(self, run: str) -> list[dict[str, Any]]:
        """The cells of its plan, in the sweep's order."""
        found: list[dict[str, Any]] = json.loads(self.place(run, "plan.json").read_text("utf-8"))["cells"]
        return found

    def tail(self, run: str) -> str:
        """The end of its log."""
        try:
            with open(self.place(run, "log.txt"), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return text if size <= TAIL_BYTES else text.partition("\n")[2]

    def _keep(self, one: RunRecord) -> RunRecord:
        with self._lock:
            return self._keep_locked(one)

    def _keep_locked(self, one: RunRecord) -> RunRecord:
        self._known[one.id] = one
        file = self._folder / one.id / "run.json"
        temporary = file.with_suffix(".part")
        temporary.write_text(json.dumps(asdict(one)), "utf-8")
        os.replace(temporary, file)
        return one


def _held(work: Path) -> IO[str]:
    """The lock of the work folder, which is made; UserError when it can't be written or another server has it."""
    try:
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        (work / "runs").mkdir(exist_ok=True, mode=0o700)
        lock = open(work / "lock", "a")  # noqa: SIM115  open as long as the server runs
    except OSError as error:
        raise UserError(f"--work {work}: can't be written: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(
            f"--work {work}: another raybench serve uses it; give this one its own, or --read-only"
        ) from error
    return lock


def _read(file: Path) -> RunRecord | None:
    """The record in a file; None where it is damaged."""
    try:
        fields = json.loads(file.read_text("utf-8"))
        one = RunRecord(**{**fields, "methods": tuple(fields["methods"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return one if RUN_ID.fullmatch(one.id) and file.parent.name == one.id else None
