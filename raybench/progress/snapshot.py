"""Snapshot of the sweeps in a storage, read from its results, journal, leases and drivers' records."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raybench.errors import brief, failure
from raybench.progress.journal import FOLDER as JOURNAL
from raybench.progress.journal import entry_in, present_stage
from raybench.progress.records import RUNS, Driver, Planned, read_drivers, read_plan
from raybench.results.layout import ATTEMPTS, CELLS, last_attempts
from raybench.results.repair import Repair
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.storage.leases import holder_in, is_alive, is_damaged

RECENT_EXECUTIONS = 100  # newest journal entries that are read, for the list of ended units and the rate
LEASES = 64  # leases that are opened, for the list of running units
ATTEMPTS_READ = 50  # failed attempts whose reasons are read
REASON = ("trial_id", "stage", "error_type", "error_message")


@dataclass(frozen=True)
class Running:
    """A unit with a lease. Times in seconds since 1970."""

    label: str
    stage: str
    since: float
    host: str
    pid: int
    last_heartbeat: float | None  # None: the lease can't be read
    alive: bool  # False: its holder stopped renewing the lease, and no other has taken it over


@dataclass(frozen=True)
class Failure:
    """Cells that failed for the same reason."""

    count: int
    reason: str
    trial_id: str  # one of them


@dataclass(frozen=True)
class SweepState:
    """One sweep: its cells by status, and its driver. `total` is None without a driver's plan."""

    name: str
    total: int | None
    counts: Mapping[str, int]  # ok, failed, skipped
    stages_done: int
    stages_total: int
    driver: Driver | None  # the one with the latest heartbeat

    @property
    def ended(self) -> int:
        """Number of cells that have ended, with any status."""
        return sum(self.counts.values())

    @property
    def complete(self) -> bool:
        """Whether every cell has ended and no driver is alive, which might retry failed ones."""
        driven = self.driver is not None and self.driver.alive
        return self.total is not None and self.ended >= self.total and not driven


@dataclass(frozen=True)
class Snapshot:
    """Everything that the panel shows, at `time` (seconds since 1970)."""

    url: str
    time: float
    sweeps: tuple[SweepState, ...]
    running: tuple[Running, ...]
    held: int  # units that are running; `running` names the first LEASES of them
    ended: tuple[Mapping[str, Any], ...]  # journal entries by the time they ended
    failures: tuple[Failure, ...]
    rate: float | None  # recently ended cells per second
    unreadable: bool = False  # whether a plan, or every driver's record, is there and can't be read
    damaged: Mapping[str, str] = field(default_factory=dict)  # key of a result file that isn't counted -> why

    @property
    def complete(self) -> bool:
        """Whether every sweep is complete."""
        return bool(self.sweeps) and all(sweep.complete for sweep in self.sweeps)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the present rate; None if the rate or a total is unknown."""
        left = [None if sweep.total is None else sweep.total - sweep.ended for sweep in self.sweeps]
        known = [count for count in left if count is not None]
        return sum(known) / self.rate if self.rate and len(known) == len(left) else None


class StoreReader:
    """Takes snapshots of one storage. Files that no longer change are read once."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self._store, self._repair = storage, Store(storage), Repair(storage)
        self._drivers: dict[str, Driver] = {}
        self._plans: dict[str, Planned | None] = {}
        self._ended: dict[str, Mapping[str, Any]] = {}  # name -> an ended execution
        self._reasons: dict[str, Mapping[str, Any]] = {}  # key of an attempt -> its REASON columns

    def read(self) -> Snapshot:
        """The present state."""
        now = time.time()
        self._drivers = dict(read_drivers(self._storage, self._drivers))
        shown = _shown(self._drivers.values())
        damaged = self._repair.look_at_all()
        lost = {(damage.file.trial_id, damage.file.status) for damage in damaged}
        statuses = {one: status for one, status in self._store.statuses().items() if (one, status) not in lost}
        stages = {key.partition("/")[2] for key in self._storage.list("stages")}
        sweeps = tuple(self._state(driver, statuses, stages) for driver in shown) or _unplanned(statuses)
        unreadable = any(sweep.total is None for sweep in sweeps) if shown else _any_run(self._storage)
        journal = self._journal()
        running, held = self._running(journal, now)
        ended = self._recent(journal)
        return Snapshot(
            self._storage.url, now, sweeps, running, held, ended, self._failures(statuses, shown),
            _rate(ended, [driver for driver in shown if driver.alive], now), unreadable,
            {damage.file.key: damage.why for damage in damaged},
        )  # fmt: skip

    def _state(self, driver: Driver, statuses: Mapping[str, str], stages: set[str]) -> SweepState:
        planned = self._planned(driver)
        if planned is None:
            return SweepState(driver.sweep, None, Counter(statuses.values()), len(stages), len(stages), driver)
        counts = Counter(statuses[cell] for cell in planned.cells if cell in statuses)
        done = sum(stages.issuperset(unit) for unit in planned.stages)
        return SweepState(driver.sweep, len(planned.cells), counts, done, len(planned.stages), driver)

    def _planned(self, driver: Driver) -> Planned | None:
        if self._plans.get(driver.plan) is None:
            self._plans[driver.plan] = read_plan(self._storage, driver.plan)
        return self._plans[driver.plan]

    def _journal(self) -> dict[str, list[str]]:
        """Unit key -> names of its executions, oldest first."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self._storage.list(JOURNAL):
            found[name.split("/")[1]].append(name)
        return found

    def _entry(self, name: str) -> Mapping[str, Any] | None:
        """One execution; None when its entry was deleted or is damaged."""
        if name not in self._ended:
            entry = entry_in(self._storage.read(name))
            if entry is None or entry["status"] == "running":
                return entry
            self._ended[name] = entry
        return self._ended[name]

    def _running(self, journal: Mapping[str, list[str]], now: float) -> tuple[tuple[Running, ...], int]:
        """(running units, from their leases and newest executions; number of units that run in total)."""
        leases = {name.split("/")[1]: name for name in self._storage.list("leases")}  # the last generation of each
        rows = [self._row(name, journal.get(key, ()), now) for key, name in sorted(leases.items())[:LEASES]]
        found = tuple(sorted((row for row in rows if row), key=lambda row: (row.alive, row.since)))
        return found, len(leases) - sum(row is None or not row.alive for row in rows)

    def _row(self, lease: str, executions: Iterable[str], now: float) -> Running | None:
        data = self._storage.read(lease)
        entry = next((self._entry(name) for name in reversed(list(executions))), None)
        if data is None or entry is None or entry["status"] != "running":
            return None
        holder = holder_in(data)
        stage = present_stage(entry)
        renewed = None if is_damaged(holder) else holder["time"]
        return Running(
            entry["label"], stage["stage"], stage["started"], entry["host"], entry["pid"], renewed,
            is_alive(holder, now),
        )  # fmt: skip

    def _recent(self, journal: Mapping[str, list[str]]) -> tuple[Mapping[str, Any], ...]:
        """The ended ones among the executions that began last, by the time they ended."""
        names = sorted((name for names in journal.values() for name in names), key=_began, reverse=True)
        entries = [
            entry for name in names[:RECENT_EXECUTIONS] if (entry := self._entry(name)) and entry["status"] != "running"
        ]
        return tuple(sorted(entries, key=ended_at))

    def _failures(self, statuses: Mapping[str, str], shown: Iterable[Driver]) -> tuple[Failure, ...]:
        plans = [self._planned(driver) for driver in shown]
        wanted = {cell for plan in plans if plan for cell in plan.cells} if all(plans) and plans else set(statuses)
        failed = {cell for cell in wanted if statuses.get(cell) == "failed"}
        attempts = [a for a in last_attempts(self._store.listing(ATTEMPTS), ()) if a.trial_id in failed]
        for attempt in attempts[:ATTEMPTS_READ]:
            if attempt.key not in self._reasons:
                rows = [row for table in self._store.files.tables([attempt], REASON) for row in table.to_pylist()]
                self._reasons[attempt.key] = rows[0] if rows else {"trial_id": attempt.trial_id}
        by_reason: dict[str, list[str]] = defaultdict(list)
        for attempt in attempts:
            by_reason[_reason(self._reasons.get(attempt.key))].append(attempt.trial_id or "")
        ranked = sorted(by_reason.items(), key=lambda one: -len(one[1]))
        return tuple(Failure(len(ids), reason, ids[0]) for reason, ids in ranked)


def is_there(storage: Storage) -> bool:
    """Whether the storage holds anything of any run."""
    return any(storage.list(prefix) for prefix in (RUNS, JOURNAL, CELLS, ATTEMPTS))


def _any_run(storage: Storage) -> bool:
    """Whether a run has left a record, readable or not, or something else lies where their folder should be."""
    return bool(storage.list(RUNS) or storage.not_listed(RUNS))


def ended_at(entry: Mapping[str, Any]) -> float:
    """When an ended execution ended, in seconds since 1970."""
    return entry["started"] + entry["seconds"]


def _shown(drivers: Iterable[Driver]) -> list[Driver]:
    """The drivers that are alive, one per sweep, or else the one with the latest heartbeat."""
    by_plan: dict[str, Driver] = {}
    for driver in sorted(drivers, key=lambda driver: (driver.alive, driver.last_heartbeat)):
        by_plan[driver.plan] = driver
    alive = [driver for driver in by_plan.values() if driver.alive]
    return alive or sorted(by_plan.values(), key=lambda driver: driver.last_heartbeat)[-1:]


def _unplanned(statuses: Mapping[str, str]) -> tuple[SweepState, ...]:
    """State of results without a driver's record: merged ones, or those of an older raybench."""
    return (SweepState("", None, Counter(statuses.values()), 0, 0, None),) if statuses else ()


def _began(name: str) -> int:
    """When the execution with that name began, in nanoseconds since 1970."""
    began = name.rpartition("/")[2].partition("-")[0]
    return int(began) if began.isascii() and began.isdecimal() and len(began) < 20 else 0  # else no name of ours


def _rate(ended: Iterable[Mapping[str, Any]], drivers: list[Driver], now: float) -> float | None:
    """Cells per second since the oldest living driver began or, with more than 20 ended cells, since the first of them.

    None without a living driver or an ended cell.
    """
    if not drivers:
        return None
    since = min(driver.began for driver in drivers)
    cells = [e for e in ended if e["kind"] == "cell" and e["status"] != "interrupted" and e["started"] >= since]
    if len(cells) > 20:  # enough to leave out the shared stages before them, which say nothing about the next cells
        since = min(entry["started"] for entry in cells)
    return len(cells) / max(now - since, 1.0) if cells else None


def _reason(row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("error_type") is None:
        return "for other reasons"
    message = str(row["error_message"]).strip().partition("\n")[0]
    return f"in {row['stage']}: {brief(failure(row['error_type'], message))}"
