"""A file that a process renews while it lives, so that others see from anywhere whether it is still there."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from raybench.errors import UserError
from raybench.storage.base import Storage
from raybench.storage.leases import TTL, stamp


class Heartbeat:
    """`key` in the storage: `facts` for people, and a stamp for `raybench.storage.leases.is_alive`."""

    def __init__(self, storage: Storage, key: str, facts: Mapping[str, Any], ttl: float = TTL) -> None:
        self._storage, self._key, self._ttl = storage, key, ttl
        self._facts = dict(facts)
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    def start(self) -> None:
        """Write the first beat; raises OSError or UserError when the storage takes none."""
        self._write()
        self._beat = threading.Thread(target=self._renew, name=f"heartbeat {self._key}", daemon=True)
        self._beat.start()

    def stop(self, **facts: Any) -> None:
        """The last beat, with `facts` on how it ended; nothing happens when it was never started.

        A storage that refuses it costs those who watch this word, never the run that is over.
        """
        if self._beat is None:
            return
        self._stop.set()
        self._beat.join()
        self._beat = None
        self._facts.update(facts)
        self._try()

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl / 6):
            self._try()

    def _try(self) -> None:
        """A beat if the storage takes it now: one that is away, or refuses, for a moment is asked again next time."""
        with contextlib.suppress(OSError, UserError):
            self._write()

    def _write(self) -> None:
        self._storage.replace(self._key, json.dumps({**self._facts, **stamp(self._ttl)}).encode())
