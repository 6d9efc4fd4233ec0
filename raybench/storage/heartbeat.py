"""A file that a process renews while it runs, from which other machines see whether it is alive."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from raybench.errors import UserError
from raybench.storage.base import Storage
from raybench.storage.leases import TTL, stamp

TELLING = 2  # failures in a row that are reported: one may pass
JOIN_S = 30.0  # for a write that hangs, at the end


class Heartbeat:
    """Writes `facts` and the stamp that `raybench.storage.leases.is_alive` checks to `key`, every `ttl` / 6 seconds."""

    def __init__(self, storage: Storage, key: str, facts: Mapping[str, Any], ttl: float = TTL) -> None:
        self._storage, self._key, self._ttl = storage, key, ttl
        self._facts = dict(facts)
        self._stop = threading.Event()
        self._failures = 0
        self.say: Callable[[str], None] = lambda text: None  # called when the storage can't be written for long
        self._beat: threading.Thread | None = None

    def start(self) -> None:
        """Write the file and start to renew it. OSError or UserError if the storage can't be written."""
        self._write()
        self._beat = threading.Thread(target=self._renew, name=f"heartbeat {self._key}", daemon=True)
        self._beat.start()

    def stop(self, **facts: Any) -> None:
        """Stop renewing and write the file once more, with `facts` added; nothing happens if it was never started.

        An error of the storage is ignored: the run is over, and watchers see an outdated stamp. The thread writes it,
        as the main thread would wait for a storage that is away.
        """
        if self._beat is None:
            return
        self._facts.update(facts)
        self._stop.set()
        self._beat.join(JOIN_S)
        self._beat = None

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl / 6):
            self._try()
        self._try()

    def _try(self) -> None:
        """Write the file; the next renewal tries again after an error, of which the second in a row is reported."""
        try:
            self._write()
        except (OSError, UserError) as error:
            self._failures += 1
            if self._failures == TELLING:
                self.say(f"the storage {self._storage.url} can't be written, so workers wait for it: {error}")
        else:
            if self._failures >= TELLING:
                self.say(f"the storage {self._storage.url} works again")
            self._failures = 0

    def _write(self) -> None:
        self._storage.replace(self._key, json.dumps({**self._facts, **stamp(self._ttl)}).encode(), durable=False)
