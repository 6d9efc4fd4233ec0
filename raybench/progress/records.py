"""What a driver leaves in the storage for those who watch: what is planned, and that the driver is still there."""

from __future__ import annotations

import json
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raybench.plan import Plan
from raybench.spec.trial import digest
from raybench.storage.base import Storage
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import is_alive

PLANS, RUNS = "plans", "runs"


@dataclass(frozen=True)
class Planned:
    """A sweep as a driver planned it: every cell, done or not, and the shared stages that these need."""

    sweep: str
    cells: tuple[str, ...]  # trial ids
    stages: tuple[tuple[str, ...], ...]  # one for each shared unit: the keys below stages/ that it fills


@dataclass(frozen=True)
class Driver:
    """One `raybench run`, as it was last heard of. Times in seconds since 1970."""

    run: str
    sweep: str
    plan: str  # key of its Planned
    host: str
    pid: int
    began: float
    heard: float
    status: str  # running, ended, interrupted; running is its own last word, whether or not it lives
    alive: bool


def planned(sweep: str, plan: Plan) -> Planned:
    """What `plan` is about, the same however much of it is done already: its cells, and the units of fresh ones."""
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
    """Keep `what` once, whole or not at all, and return its key."""
    key = f"{PLANS}/{digest('plan', what.sweep, what.cells, what.stages)}.json"
    content = {"sweep": what.sweep, "cells": what.cells, "stages": what.stages}
    storage.create(key, json.dumps(content).encode())
    return key


def read_plan(storage: Storage, key: str) -> Planned | None:
    """The plan at `key`; None when there is none."""
    data = storage.read(key)
    if data is None:
        return None
    told = json.loads(data)
    return Planned(told["sweep"], tuple(told["cells"]), tuple(map(tuple, told["stages"])))


def heartbeat(storage: Storage, run: str, what: Planned, plan_key: str) -> Heartbeat:
    """The sign of life of the run `run`, not started yet. Its ``stop(status=...)`` says how the run ended."""
    facts = {"run": run, "sweep": what.sweep, "plan": plan_key, "host": socket.gethostname(), "began": time.time()}
    return Heartbeat(storage, f"{RUNS}/{run}.json", {**facts, "status": "running"})


def read_drivers(storage: Storage, known: Mapping[str, Driver] | None = None) -> Iterator[tuple[str, Driver]]:
    """(key, driver) of every run that left a sign; those in `known` that have ended are not read again."""
    for key in storage.list(RUNS):
        before = (known or {}).get(key)
        if before is not None and before.status != "running":
            yield key, before
            continue
        driver = _driver(storage.read(key)) or before
        if driver is not None:
            yield key, driver


def _driver(data: bytes | None) -> Driver | None:
    """None when it is gone, or half written by a store that doesn't write at once: the next look tells more."""
    try:
        told = json.loads(data or b"")
    except ValueError:
        return None
    return Driver(
        told["run"], told["sweep"], told["plan"], told["host"], told["pid"], told["began"], told["time"],
        told["status"], told["status"] == "running" and is_alive(told),
    )  # fmt: skip
