"""What a storage and a run look like now, read at most once a moment however many browsers ask."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, TypeVar

import pyarrow.compute as pc

from raybench.progress.snapshot import Snapshot, StoreReader
from raybench.results.layout import ATTEMPTS, CELLS
from raybench.results.store import Store
from raybench.storage.local import LocalStorage

T = TypeVar("T")
SHORTEST_S = 0.7  # between two looks at a folder
SHORTEST_BUCKET_S = 5.0  # at a bucket, where each look is several paid requests
SHARE = 4  # a look that takes long is repeated after so many times its duration
SHOWN = ("trial_id", "metric_final", "delta", "speedup", "params_kept", "error_message", "reason")


class Kept(Generic[T]):
    """A value that is read again when it is old, by one thread at a time."""

    def __init__(self, read: Callable[[], T], shortest: float = SHORTEST_S) -> None:
        self._read, self._shortest, self._lock = read, shortest, threading.Lock()
        self._value: T | None = None
        self._until = 0.0

    def get(self) -> T:
        """The value, at most a moment old."""
        with self._lock:
            began = time.monotonic()
            if self._value is None or began >= self._until:
                self._value = self._read()
                took = time.monotonic() - began
                self._until = time.monotonic() + max(self._shortest, SHARE * took)
            return self._value


@dataclass(frozen=True)
class Cell:
    """One cell of a run's plan, as the storage has it now."""

    trial_id: str
    model: str
    method: str
    strategy: str
    asked: float
    seed: int
    status: str  # waiting, ok, failed, skipped
    final: float | None = None
    delta: float | None = None
    speedup: float | None = None
    kept: float | None = None
    why: str = ""


class Pulse:
    """Looks at a storage for all pages that show it live."""

    def __init__(self, store: Store) -> None:
        self._store, reader = store, StoreReader(store.storage)
        shortest = SHORTEST_S if isinstance(store.storage, LocalStorage) else SHORTEST_BUCKET_S
        self.version = Kept(self._version, shortest)
        self.snapshot: Kept[Snapshot] = Kept(reader.read, shortest)
        self.rows: Kept[dict[str, Mapping[str, Any]]] = Kept(self._rows, shortest)
        self._seen: tuple[str, dict[str, Mapping[str, Any]]] = ("", {})

    def _version(self) -> str:
        """Changes with every row that is written."""
        names = [name for place in (CELLS, ATTEMPTS) for name in self._store.storage.list(place)]
        return sha256("\n".join(names).encode()).hexdigest()[:16]

    def _rows(self) -> dict[str, Mapping[str, Any]]:
        """trial id -> its status and main figures; read again when a row was written."""
        version = self.version.get()
        if self._seen[0] != version:
            table = self._store.table([*SHOWN, "status"])
            table = table.set_column(table.column_names.index("error_message"), "error_message",
                                     pc.utf8_slice_codeunits(table["error_message"], 0, 300))  # fmt: skip
            self._seen = (version, {row["trial_id"]: row for row in table.to_pylist()})
        return self._seen[1]

    def cells(self, plan: list[dict[str, Any]]) -> list[Cell]:
        """The cells of a plan with what the storage has of each."""
        rows = self.rows.get()
        return [_cell(one, rows.get(one["trial_id"])) for one in plan]


def tally(cells: list[Cell]) -> Counter[str]:
    """How many cells have each status."""
    return Counter(one.status for one in cells)


def _cell(plan: Mapping[str, Any], row: Mapping[str, Any] | None) -> Cell:
    asked, status = plan["speedup"], "waiting" if row is None else row["status"]
    own = (plan["trial_id"], plan["model"], plan["method"], plan["strategy"], asked, plan["seed"], status)
    if row is None:
        return Cell(*own)
    why = row["error_message"] or row["reason"] or ""
    return Cell(*own, row["metric_final"], row["delta"], row["speedup"], row["params_kept"], why)
