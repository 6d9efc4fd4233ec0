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
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from raybench.errors import RaybenchError, UserError
from raybench.storage.base import Storage
from raybench.storage.json_text import is_number, is_process, is_text, is_text_or_none, read_object
from raybench.storage.processes import stat_of
from raybench.storage.renewals import renewals
from raybench.storage.wrapped import P, T, Wrapped

TTL = 60.0
MOST_TTL = 3600.0  # a longer one is damage
STAMP = {"time": is_number, "ttl": is_number, "machine": is_text, "pid": is_process}


class LeaseLost(RaybenchError):
    """This process stood still, and another one has taken over its work."""


class Fenced(Wrapped):
    """A storage in which only the holder of `lease` writes. Raises LeaseLost after a rival took over."""

    def __init__(self, inner: Storage, lease: Lease) -> None:
        super().__init__(inner)
        self._lease = lease

    def writing(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Make the call if the lease is still held."""
        if not self._lease.still_held():
            raise LeaseLost("this process stood still for longer than its lease, and another one has taken over")
        return call(*args, **options)


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
        self._generation, self._renewed = 0, 0.0
        self._renewing = threading.Lock()  # a renewal that began before the release must not follow it
        self.held = False
        self.lost = False

    @property
    def taken(self) -> bool:
        """Whether a live process holds it now."""
        return any(self._alive(name) for name in self._generations())

    def holder(self) -> str:
        """The live process that holds it, in words; empty if there is none."""
        contents = [self._storage.read(self._key(name)) for name in sorted(self._generations(), reverse=True)]
        alive = [found for found in map(holder_in, filter(None, contents)) if is_alive(found)]
        return f"process {alive[0]['pid']} on {alive[0]['machine'].partition(':')[0]}" if alive else ""

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
        self.held, self.lost, self._renewed = True, False, _since_boot()
        renewals().add(self, self._period)
        return True

    def release(self) -> None:
        """Give the lease back; nothing happens if it isn't held."""
        renewals().remove(self)
        with self._renewing:
            held, self.held = self.held and not self.lost, False
        if held:
            self._storage.delete(self._key(self._generation))

    def still_held(self) -> bool:
        """Whether it is ours. Looks into the storage only if it wasn't renewed in time, e.g. after a standstill."""
        if self.held and not self.lost and _since_boot() - self._renewed > self._ttl:
            self.lost = not self._is_newest()
        return self.held and not self.lost

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def renew(self) -> bool:
        """Say that its holder lives; False when that is over, as it was given back or a rival took over."""
        with self._renewing:
            if not self.held:
                return False
            try:
                if self.lost or not self._is_newest():
                    self.lost = True
                    self._storage.delete(self._key(self._generation))
                    return False
                self._storage.replace(self._key(self._generation), self._content(), durable=False)
                self._renewed = _since_boot()
            except (OSError, UserError):
                pass  # may pass: the lease stays valid until `ttl` after the last renewal
            return True

    def _is_newest(self) -> bool:
        """Whether our generation is there and no rival made a later one."""
        names = self._generations()
        return self._generation in names and max(names) == self._generation

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


def is_damaged(holder: Mapping[str, Any]) -> bool:
    """Whether this is what `holder_in` makes of a lease that can't be read, which names nobody."""
    return bool(holder["pid"] == 0)


def is_alive(holder: Mapping[str, Any], now: float | None = None) -> bool:
    """Whether the holder with this `stamp` renewed in time and, if it runs on this machine, its process exists.

    A stamp that is dated more than its `ttl` in the future is damage, or that of a clock which was wrong: dead.
    """
    here, ttl = holder["machine"] == _machine(), min(holder["ttl"], MOST_TTL)
    age = (time.time() if now is None else now) - holder["time"]
    if here and (now is None or age < -ttl) and (since_boot := holder.get("since_boot")) is not None:
        age = abs(_since_boot() - since_boot)  # this machine's clock may have been set since
    if not -ttl <= age <= ttl:
        return False
    return not here or _started(holder["pid"]) == holder.get("started")


def stamp(ttl: float) -> dict[str, Any]:
    """This process and the current time, for `is_alive`; valid for `ttl` seconds."""
    process = {"machine": _machine(), "pid": os.getpid(), "started": _own_start(os.getpid())}
    return {"time": time.time(), "since_boot": _since_boot(), "ttl": ttl, **process}


def _since_boot() -> float:
    """Seconds since this machine started, time in which it slept included; a clock that is set doesn't change it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@cache
def _machine() -> str:
    """Identifies this boot of this machine and its process table: two containers of one host are two machines."""
    boot, table = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists():
        return f"{socket.gethostname()}:{uuid.getnode():x}"
    return f"{socket.gethostname()}:{boot.read_text().strip()}:{os.readlink(table)}"


@cache
def _own_start(pid: int) -> str | None:
    """`_started` of this process; by its number, as a fork is another one."""
    return _started(pid)


def _started(pid: int) -> str | None:
    """When process `pid` started, to recognize a reused number; None if there is no such process."""
    try:
        fields = stat_of(pid)
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
