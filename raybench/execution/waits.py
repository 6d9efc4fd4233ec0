"""Says what a run waits for while nothing of it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from raybench.errors import counted
from raybench.plan.records import Unit
from raybench.progress.outcome import label_of
from raybench.storage.base import Storage
from raybench.storage.leases import Lease

NOTICE_S = 10.0  # a shorter wait is no news


class Wait:
    """A wait that is reported once it has lasted NOTICE_S, and again when it is for something else.

    Args:
        say: called with a sentence.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, ""
        self._next = float("inf")  # when to look what it is for
        self._lasts = False

    def over(self) -> None:
        """Nothing is waited for now."""
        self._lasts, self._said = False, ""

    def lasts(self, words: Callable[[], str]) -> None:
        """Something may be waited for; `words`, called from time to time, says for what, or is empty for nothing."""
        now = time.monotonic()
        if not self._lasts:
            self._lasts, self._next = True, now + NOTICE_S
        if now < self._next:
            return
        self._next = now + NOTICE_S
        if (text := words()) and text != self._said:
            self._say(text)
        self._said = text


def for_another_run(units: Sequence[Unit], storage: Storage) -> str:
    """What a run waits for whose last units other runs have."""
    holders = sorted(filter(None, {Lease(storage, unit.key).holder() for unit in units[:5]}))
    who = f" ({', '.join(holders)})" if holders else ""
    more = " and others" if len(units) > 1 else ""
    return f"waiting for {counted(len(units), 'unit')} of another run{who}: {units[0].kind} {label_of(units[0])}{more}"
