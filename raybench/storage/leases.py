"""Leases: at most one process works on a key. The lease of a dead holder is taken over.

A lease is a file ``leases/<key>/<generation>`` that its holder renews. All rivals for a stale lease try to create the
same next generation, which only one of them can. The winner then lists the generations again, and gives up if another
one is alive. So in any order of events at most one process holds the lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from raybench.errors import UserError
from raybench.storage.base import Storage
from raybench.storage.json_text import is_number, is_process, is_text, is_text_or_none, read_object

TTL = 60.0
MOST_TTL = 3600.0  # a longer one is damage
STAMP = {"time": is_number, "ttl": is_number, "machine": is_text, "pid": is_process}


class Lease:
    """The exclusive right to work on `key`. Times in seconds; the machines' clocks must agree within `ttl` / 2.

    Where they don't, a unit may run twice; its result is published once.

    ``with lease:`` tries to acquire it; `held` is true if that succeeded. `lost` becomes true when a rival took over
    because this process did not renew in time (it was suspended, or its storage was unreachable).
    """

    def __init__(self, storage: Storage, key: str, *, ttl: float = TTL, heartbeat: float | None = None) -> None:
        self._storage, self._folder = storage, f"leases/{key}"
        self._ttl = ttl
        self._period = ttl / 6 if heartbeat is None else heartbeat
        self._owner = uuid.uuid4().hex
        self._generation = 0
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self.held = False
        self.lost = False

    @property
    def taken(self) -> bool:
        """Whether a live process holds it now."""
        return any(self._alive(name) for name in self._generations())

    def acquire(self) -> bool:
        """Take the lease if it is free or stale, without waiting; returns whether it is held."""
        seen = self._generations()
        if any(self._alive(name) for name in seen):
            return False
        self._generation = max(seen, default=0) + 1
        if not self._storage.create(self._key(self._generation), self._content(), durable=False):
            return False
        others = [name for name in self._generations() if name != self._generation]
        if any(self._alive(name) for name in others):
            self._storage.delete(self._key(self._generation))
            return False
        for name in others:
            self._storage.delete(self._key(name))
        self.held, self.lost = True, False
        self._stop.clear()
        self._beat = threading.Thread(target=self._renew, name=f"lease {self._folder}", daemon=True)
        self._beat.start()
        return True

    def release(self) -> None:
        """Give the lease back; nothing happens if it isn't held."""
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
            self._beat = None
        if self.held and not self.lost:
            self._storage.delete(self._key(self._generation))
        self.held = False

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._stop.wait(self._period):
            try:
                names = self._generations()
                if self._generation not in names or max(names) > self._generation:
                    self.lost = True
                    self._storage.delete(self._key(self._generation))
                    return
                self._storage.replace(self._key(self._generation), self._content(), durable=False)
            except (OSError, UserError):
                continue  # may pass: the lease stays valid until `ttl` after the last renewal

    def _key(self, generation: int) -> str:
        return f"{self._folder}/{generation}"

    def _generations(self) -> list[int]:
        names = (key.rpartition("/")[2] for key in self._storage.list(self._folder))
        return [int(name) for name in names if name.isascii() and name.isdecimal()]

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, **stamp(self._ttl)}).encode()

    def _alive(self, generation: int) -> bool:
        data = self._storage.read(self._key(generation))
        return data is not None and is_alive(holder_in(data))


def holder_in(data: bytes) -> Mapping[str, Any]:
    """The `stamp` in a lease; that of a dead holder if the file is damaged, so that its lease is taken over."""
    dead = {"time": 0.0, "ttl": 0.0, "machine": "", "pid": 0, "started": None}
    found: dict[str, Any] | None = read_object(data, STAMP, {"started": is_text_or_none, "since_boot": is_number})
    return {**dead, **found} if found else dead


def is_alive(holder: Mapping[str, Any], now: float | None = None) -> bool:
    """Whether the holder with this `stamp` renewed in time and, if it runs on this machine, its process exists.

    A stamp that is dated more than its `ttl` in the future is damage, or that of a clock which was wrong: dead.
    """
    here, ttl = holder["machine"] == _machine(), min(holder["ttl"], MOST_TTL)
    age = (time.time() if now is None else now) - holder["time"]
    if age < -ttl and here and (since_boot := holder.get("since_boot")) is not None:
        age = abs(_since_boot() - since_boot)  # this machine's clock was set back
    if not -ttl <= age <= ttl:
        return False
    return not here or _started(holder["pid"]) == holder.get("started")


def stamp(ttl: float) -> dict[str, Any]:
    """This process and the current time, for `is_alive`; valid for `ttl` seconds."""
    process = {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}
    return {"time": time.time(), "since_boot": _since_boot(), "ttl": ttl, **process}


def _since_boot() -> float:
    """Seconds since this machine started, time in which it slept included; a clock that is set doesn't change it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """Identifies this boot of this machine and its process table: two containers of one host are two machines."""
    boot, table = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists():
        return f"{socket.gethostname()}:{uuid.getnode():x}"
    return f"{socket.gethostname()}:{boot.read_text().strip()}:{os.readlink(table)}"


def _started(pid: int) -> str | None:
    """When process `pid` started, to recognize a reused number; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass  # no such process, or a system without /proc
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"  # a process of another user
    return "alive"
