"""Journal of executions: one JSON object for every run of a unit, rewritten at each stage.

The live panel, `raybench watch` and the tests of resumption read it: which stages ran, where, for how long, and from
which epoch they resumed. No result depends on it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from raybench.storage.base import Storage
from raybench.storage.json_text import is_figures, is_number, is_process, is_text, read_object

FOLDER = "journal"
WAITING = "waiting: "  # start of the name of a stage in which a unit only waits; what it waits for follows


class Execution:
    """One run of one unit: an entry of the journal at `journal/<key>/<start>-<host>-<pid>.json`."""

    def __init__(self, storage: Storage, key: str, kind: str, label: str) -> None:
        self._storage, self._began, self._stage_began = storage, time.monotonic(), 0.0
        self._entry: dict[str, Any] = {
            "key": key, "kind": kind, "label": label, "host": socket.gethostname(), "pid": os.getpid(),
            "started": time.time(), "status": "running", "stages": [],
        }  # fmt: skip
        self._name = f"{FOLDER}/{key}/{time.time_ns()}-{self._entry['host']}-{self._entry['pid']}.json"

    @property
    def stage_name(self) -> str:
        """The stage that is running, empty before the first."""
        return self._entry["stages"][-1]["stage"] if self._entry["stages"] else ""

    @property
    def seconds(self) -> float:
        """Seconds since the unit started, whatever happened to the machine's clock."""
        return time.monotonic() - self._began

    def stage(self, stage: str, **facts: Any) -> None:
        """Start a stage; the one before it ends."""
        self._close_stage()
        self._stage_began = time.monotonic()
        self._entry["stages"].append({"stage": stage, "started": time.time(), **facts})
        self._write()

    def note(self, **facts: Any) -> None:
        """Add facts to the running stage, e.g. ``resumed_from=3``."""
        self._entry["stages"][-1].update(facts)
        self._write()

    def end(self, status: str, **facts: Any) -> None:
        """End the unit with `status` ok, failed, skipped or interrupted."""
        self._close_stage()
        self._entry.update(status=status, seconds=self.seconds, **facts)
        self._write()

    def _close_stage(self) -> None:
        if self._entry["stages"]:
            self._entry["stages"][-1].setdefault("seconds", time.monotonic() - self._stage_began)

    def _write(self) -> None:
        self._storage.replace(self._name, json.dumps(self._entry).encode(), durable=False)


def present_stage(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last stage of an execution: its name, start and facts."""
    return entry["stages"][-1] if entry["stages"] else {"stage": "starting", "started": entry["started"]}


def read_journal(storage: Storage, key: str = "") -> Iterator[dict[str, Any]]:
    """Every execution (of the unit `key`, or of all), oldest first within a unit."""
    for name in storage.list(f"{FOLDER}/{key}/" if key else f"{FOLDER}/"):
        data = storage.read(name)
        if (entry := entry_in(data)) is not None:  # gc may delete entries meanwhile
            yield entry


def entry_in(data: bytes | None) -> dict[str, Any] | None:
    """The execution in an entry; None if there is none, or it is damaged: no result depends on it."""
    entry: dict[str, Any] | None = read_object(data, _ENTRY, {"error": is_text, "summary": is_figures})
    if entry is None or (entry["status"] != "running" and not is_number(entry.get("seconds"))):
        return None
    return entry


def _are_stages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(stage, dict) and is_text(stage.get("stage")) and is_number(stage.get("started")) for stage in value
    )


_ENTRY = {
    "key": is_text, "kind": is_text, "label": is_text, "host": is_text, "pid": is_process, "started": is_number,
    "status": is_text, "stages": _are_stages,
}  # fmt: skip
