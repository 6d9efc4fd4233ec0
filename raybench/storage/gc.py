"""Finds and removes what killed processes and past sweeps left in a storage."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raybench.storage.base import Storage
from raybench.storage.damage import DAMAGED
from raybench.storage.json_text import is_text, read_object
from raybench.storage.leases import STAMP, holder_in, is_alive, is_damaged

_PLAN = re.compile(r"plans/[^/.][^/]*")  # a damaged record may name anything, and what it names is removed
RECORD = {  # what is read of a run's record
    **STAMP, "status": is_text, "sweep": is_text,
    "plan": lambda value: is_text(value) and bool(_PLAN.fullmatch(value)),
}  # fmt: skip


@dataclass(frozen=True)
class Garbage:
    """A key or an unfinished write that can be removed, and why."""

    kind: Literal["lease", "unfinished write", "checkpoint", "stage", "stop request", "run", "plan", "damaged"]
    name: str
    reason: str


def find_garbage(
    storage: Storage, finished: Collection[str], needed: Collection[str] | None = None, age: float = 3600.0
) -> list[Garbage]:
    """Everything in `storage` that no process uses and no cell needs, in a stable order.

    `finished`: ids of cells that have their row. `needed`: keys of the stages to keep; None keeps every stage, since
    any later sweep may use it. `age`: an unfinished write counts if it was not modified for so many seconds.
    """
    leases = {key: data for key in storage.list("leases") if (data := storage.read(key)) is not None}
    alive = {key.split("/")[1] for key, data in leases.items() if is_alive(holder_in(data))}
    runs = dict(_records(storage))
    published = {key.split("/")[1] for key in storage.list("stages")}
    return [
        *_stale_leases(leases),
        *(Garbage("unfinished write", name, f"not modified for over {age:.0f} s") for name in storage.leftovers(age)),
        *(Garbage("damaged", key, "it was set aside and made again") for key in storage.list(DAMAGED)),
        *_stops(storage, runs),
        *_runs(runs),
        *_checkpoints(storage, published | set(finished), alive),
        *_stages(published, needed, alive),
    ]


def _records(storage: Storage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, content) of every run's record; a damaged one is left out."""
    for key in storage.list("runs"):
        record = read_object(storage.read(key), RECORD)
        if record is not None:
            yield key, record


def remove(storage: Storage, garbage: Garbage) -> None:
    """Remove an item of `find_garbage`; nothing happens if it was removed already."""
    if garbage.kind == "unfinished write":
        storage.discard(garbage.name)
    else:
        storage.delete(garbage.name)


def _stale_leases(leases: dict[str, bytes]) -> Iterator[Garbage]:
    for key, data in leases.items():
        holder = holder_in(data)
        if not is_alive(holder):
            damaged = "it can't be read, so nobody holds it"
            gone = f"its holder, process {holder['pid']}, no longer renews it"
            yield Garbage("lease", key, damaged if is_damaged(holder) else gone)


def _stops(storage: Storage, runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Garbage]:
    """Requests to the workers of a run to stop, left behind by a driver that was killed."""
    for key in storage.list("stops"):
        record = runs.get(f"runs/{key.partition('/')[2]}.json")
        if record is None or _is_over(record):
            yield Garbage("stop request", key, "the run that it stopped has ended")


def _is_over(record: Mapping[str, Any]) -> bool:
    return record["status"] != "running" or not is_alive(record)


def _runs(runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Garbage]:
    """Records of runs that are over, except the last of each sweep, and plans that only those runs refer to."""
    last: dict[str, str] = {}
    for key, record in sorted(runs.items(), key=lambda run: run[1]["time"]):
        last[record["sweep"]] = key
    over = {key for key, record in runs.items() if _is_over(record)} - set(last.values())
    kept = {record["plan"] for key, record in runs.items() if key not in over}
    for key in sorted(over):
        yield Garbage("run", key, f"ended; there is a later run of sweep {runs[key]['sweep']!r}")
    for plan in sorted({runs[key]["plan"] for key in over} - kept):
        yield Garbage("plan", plan, "used only by runs that have ended")


def _checkpoints(storage: Storage, ended: Collection[str], alive: Collection[str]) -> Iterator[Garbage]:
    for key in storage.list("checkpoints"):
        owner = key.split("/")[1]
        if owner in ended and owner not in alive:
            yield Garbage("checkpoint", key, "its stage or cell is finished")


def _stages(published: Collection[str], needed: Collection[str] | None, alive: Collection[str]) -> Iterator[Garbage]:
    if needed is None:
        return
    for key in sorted(published):
        if key not in needed and key not in alive:
            yield Garbage("stage", f"stages/{key}", "no cell of the named sweeps needs it")
