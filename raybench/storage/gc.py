"""What killed processes and past sweeps left in a storage, and why nobody needs it; finding and removing it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raybench.storage.base import Storage
from raybench.storage.leases import is_alive


@dataclass(frozen=True)
class Garbage:
    """One thing that can go."""

    kind: Literal["lease", "unfinished write", "checkpoint", "stage", "stop sign", "run", "plan"]
    name: str
    reason: str


def find_garbage(
    storage: Storage, finished: Collection[str], needed: Collection[str] | None = None, age: float = 3600.0
) -> list[Garbage]:
    """Everything below `storage` that no process works on and no cell needs, in a stable order.

    `finished`: ids of cells that have their row. `needed`: keys of the stages to keep; None keeps every stage, since
    any later sweep may use it. `age`: seconds for which an unfinished write must have been left alone.
    """
    leases = {key: data for key in storage.list("leases") if (data := storage.read(key)) is not None}
    alive = {key.split("/")[1] for key, data in leases.items() if is_alive(json.loads(data))}
    runs = {key: json.loads(data) for key in storage.list("runs") if (data := storage.read(key)) is not None}
    published = {key.split("/")[1] for key in storage.list("stages")}
    return [
        *_stale_leases(leases),
        *(Garbage("unfinished write", name, f"left alone for over {age:.0f} s") for name in storage.leftovers(age)),
        *_stops(storage, runs),
        *_runs(runs),
        *_checkpoints(storage, published | set(finished), alive),
        *_stages(published, needed, alive),
    ]


def remove(storage: Storage, garbage: Garbage) -> None:
    """Remove one thing that `find_garbage` found; nothing happens when it is gone already."""
    if garbage.kind == "unfinished write":
        storage.discard(garbage.name)
    else:
        storage.delete(garbage.name)


def _stale_leases(leases: dict[str, bytes]) -> Iterator[Garbage]:
    for key, data in leases.items():
        holder = json.loads(data)
        if not is_alive(holder):
            yield Garbage("lease", key, f"its holder, process {holder['pid']}, stopped renewing it")


def _stops(storage: Storage, runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Garbage]:
    """Signs that told the workers of a run to let go, and that its killed driver couldn't take back."""
    for key in storage.list("stops"):
        told = runs.get(f"runs/{key.partition('/')[2]}.json")
        if told is None or _is_over(told):
            yield Garbage("stop sign", key, "the run that it ended is over")


def _is_over(told: Mapping[str, Any]) -> bool:
    return told["status"] != "running" or not is_alive(told)


def _runs(runs: Mapping[str, Mapping[str, Any]]) -> Iterator[Garbage]:
    """Signs of life of runs that are over, where their sweep was run again, and the plans that nothing else names."""
    last: dict[str, str] = {}
    for key, told in sorted(runs.items(), key=lambda run: run[1]["time"]):
        last[told["sweep"]] = key
    over = {key for key, told in runs.items() if _is_over(told)} - set(last.values())
    kept = {told["plan"] for key, told in runs.items() if key not in over}
    for key in sorted(over):
        yield Garbage("run", key, f"over; a later run of sweep {runs[key]['sweep']!r} left its own")
    for plan in sorted({runs[key]["plan"] for key in over} - kept):
        yield Garbage("plan", plan, "only runs that are over planned it")


def _checkpoints(storage: Storage, ended: Collection[str], alive: Collection[str]) -> Iterator[Garbage]:
    for key in storage.list("checkpoints"):
        owner = key.split("/")[1]
        if owner in ended and owner not in alive:
            yield Garbage("checkpoint", key, "what it led to is finished")


def _stages(published: Collection[str], needed: Collection[str] | None, alive: Collection[str]) -> Iterator[Garbage]:
    if needed is None:
        return
    for key in sorted(published):
        if key not in needed and key not in alive:
            yield Garbage("stage", f"stages/{key}", "no cell of the sweeps named needs it")
