"""Records that a driver keeps in the storage for `raybench watch`: its plan and its heartbeat."""

from __future__ import annotations

import json
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raybench.plan.records import Plan
from raybench.storage.base import Storage
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.json_text import is_number, is_process, is_text, is_texts, read_object
from raybench.storage.leases import STAMP, is_alive
from raybench.sweep.digests import digest

PLANS, RUNS = "plans", "runs"
FACTS = {
    **STAMP, "run": is_text, "sweep": is_text, "plan": is_text, "host": is_text, "pid": is_process, "began": is_number,
    "status": is_text,
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """The plan of a driver: every cell of the sweep, done or not, and the shared stages that they need."""

    sweep: str
    cells: tuple[str, ...]  # trial ids
    stages: tuple[tuple[str, ...], ...]  # for each shared unit the keys below stages/ that it writes


@dataclass(frozen=True)
class Driver:
    """One `raybench run`, as of its last heartbeat. Times in seconds since 1970."""

    run: str
    sweep: str
    plan: str  # key of its Planned
    host: str
    pid: int
    began: float
    last_heartbeat: float
    status: str  # running, ended or interrupted, as last written: a killed driver stays "running"
    alive: bool  # running, and its last heartbeat is recent


def planned(sweep: str, plan: Plan) -> Planned:
    """All cells of `plan` and the shared stages they need; the same however much is already done."""
    skipped = {skip.trial.trial_id for skip in plan.skips}
    units: dict[str, set[str]] = defaultdict(set)
    for trial in plan.trials:
        if trial.trial_id not in skipped:
            for key in filter(None, (trial.base_key, trial.sparsify_key)):
                units[key].add(key)
            units[trial.pass_key].add(trial.select_key)  # one pass yields several cuts
    stages = sorted(tuple(sorted(keys)) for keys in units.values())
    return Planned(sweep, tuple(trial.trial_id for trial in plan.trials), tuple(stages))


def write_plan(storage: Storage, what: Planned) -> str:
    """Write a plan, unless it is there already, and return its key."""
    key = f"{PLANS}/{digest('plan', what.sweep, what.cells, what.stages)}.json"
    content = {"sweep": what.sweep, "cells": what.cells, "stages": what.stages}
    data = json.dumps(content).encode()
    if not storage.create(key, data) and read_plan(storage, key) is None:  # damaged
        storage.replace(key, data)
    return key


def read_plan(storage: Storage, key: str) -> Planned | None:
    """The plan at `key`; None when there is none, or it is damaged."""
    try:
        data = storage.read(key)
    except ValueError:  # no key: the record that named it is damaged
        return None
    fields = read_object(data, {"sweep": is_text, "cells": is_texts, "stages": _are_stages})
    return fields and Planned(fields["sweep"], tuple(fields["cells"]), tuple(map(tuple, fields["stages"])))


def heartbeat(storage: Storage, run: str, what: Planned, plan_key: str) -> Heartbeat:
    """The heartbeat of the run `run`, not started yet. ``stop(status=...)`` writes how the run ended."""
    facts = {"run": run, "sweep": what.sweep, "plan": plan_key, "host": socket.gethostname(), "began": time.time()}
    return Heartbeat(storage, f"{RUNS}/{run}.json", {**facts, "status": "running"})


def read_drivers(storage: Storage, known: Mapping[str, Driver] | None = None) -> Iterator[tuple[str, Driver]]:
    """(key, driver) of every run with a heartbeat file; those in `known` that have ended are not read again."""
    for key in storage.list(RUNS):
        before = (known or {}).get(key)
        if before is not None and before.status != "running":
            yield key, before
            continue
        driver = _driver(storage.read(key)) or before
        if driver is not None:
            yield key, driver


def _driver(data: bytes | None) -> Driver | None:
    """The driver of a heartbeat file; None if it was deleted or is damaged (not every store writes atomically)."""
    fields = read_object(data, FACTS)
    if fields is None:
        return None
    return Driver(
        fields["run"], fields["sweep"], fields["plan"], fields["host"], fields["pid"], fields["began"], fields["time"],
        fields["status"], fields["status"] == "running" and is_alive(fields),
    )  # fmt: skip


def _are_stages(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_texts, value))
