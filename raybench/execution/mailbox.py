"""Between a trial of Ray Tune and the first process of its team: units go one way, their outcomes the other.

The driver looks into it to say what a unit waits for whose team has not begun it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from raybench.execution.message import decode_unit

Given = tuple[str, str]  # an encoded unit and its encoded grant
PATIENCE_S = 120.0  # for an answer, beside what the call itself waits for: the actor starts, or stands still
LOOK_S = 2.0  # the same for the driver, which looks again later


class Box:
    """What an actor of its own holds: a trial of Tune and a process of Ray Train have no other way to each other.

    It closes when the processes have been idle for `idle_s`, or say that they end: a unit that comes later is refused,
    so that none is given to a team that is no more.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._closed = False
        self._given: asyncio.Queue[Given | None] = asyncio.Queue()
        self._outcomes: asyncio.Queue[str] = asyncio.Queue()
        self._last, self._where = "", dict[int, tuple[str, bool]]()

    async def say(self, rank: int, process: str, ready: bool) -> None:
        """Note that process `rank`, in words `process`, has started, or is `ready` for units."""
        self._where[rank] = process, ready

    async def waits(self, key: str, processes: int) -> str:
        """What unit `key`, given to so many processes, waits for before its first stage; empty if it isn't here."""
        if not self._last or decode_unit(self._last).key != key:
            return ""
        if len(self._where) < processes:
            return f"waiting for {processes - len(self._where)} of {processes} processes to start"
        slow = [rank for rank, (_, ready) in sorted(self._where.items()) if not ready]
        step = "import what units need" if slow else "begin its first stage" if self._given.empty() else "take it"
        rank = slow[0] if slow else 0
        return f"waiting for process {rank + 1} of {processes} ({self._where[rank][0]}) to {step}"

    async def put(self, given: Given) -> bool:
        """Give a unit to the processes; False if they take no more."""
        if not self._closed:
            self._last = given[0]
            self._given.put_nowait(given)
        return not self._closed

    async def take(self) -> Given | None:
        """The next unit, for the first process; None: end."""
        try:
            return await asyncio.wait_for(self._given.get(), self._idle_s)
        except TimeoutError:
            if not self._given.empty():  # it came at that moment
                return self._given.get_nowait()
            self._closed = True
            return None

    async def answer(self, outcome: str, last: bool) -> None:
        """Give back what a unit ended with; `last`: the processes take no more."""
        self._closed = self._closed or last
        self._outcomes.put_nowait(outcome)

    async def outcome(self, wait_s: float) -> str | None:
        """The next outcome; None if there is none within `wait_s`."""
        try:
            return await asyncio.wait_for(self._outcomes.get(), wait_s)
        except TimeoutError:
            return None if self._outcomes.empty() else self._outcomes.get_nowait()

    async def close(self) -> bool:
        """End the processes once they have no unit; returns whether there is a unit that they haven't taken."""
        left = not self._given.empty()
        self._closed = True
        self._given = asyncio.Queue() if left else self._given
        self._given.put_nowait(None)
        return left


class Mailbox:
    """A Box in an actor, as its two users call it. It can be sent to other processes.

    It ends with the process that made it.
    """

    def __init__(self, idle_s: float, name: str) -> None:
        """`name`: by which the driver finds it; see `waits_of`."""
        import ray

        self._idle_s = idle_s
        self._actor: Any = ray.remote(num_cpus=0)(Box).options(name=name).remote(idle_s)

    def say(self, rank: int, process: str, *, ready: bool) -> None:
        """See `Box.say`."""
        self._answer(0.0, "say", rank, process, ready)

    def put(self, given: Given) -> bool:
        """See `Box.put`."""
        return self._answer(0.0, "put", given)

    def take(self) -> Given | None:
        """See `Box.take`."""
        return self._answer(self._idle_s, "take")

    def answer(self, outcome: str, *, last: bool) -> None:
        """See `Box.answer`."""
        self._answer(0.0, "answer", outcome, last)

    def outcome(self, wait_s: float) -> str | None:
        """See `Box.outcome`."""
        return self._answer(wait_s, "outcome", wait_s)

    def close(self) -> bool:
        """See `Box.close`."""
        return self._answer(0.0, "close")

    def _answer(self, wait_s: float, name: str, *given: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, name).remote(*given), timeout=wait_s + PATIENCE_S)


def waits_of(prefix: str, key: str, processes: int) -> str:
    """What unit `key` waits for: by the Box that has it, whose name begins with `prefix`; empty if none has."""
    import ray
    from ray.util import list_named_actors

    for name in list_named_actors():
        if name.startswith(prefix):
            with suppress(ValueError, ray.exceptions.RayError):  # it ends, or doesn't answer
                box: Any = ray.get_actor(name)
                if words := ray.get(box.waits.remote(key, processes), timeout=LOOK_S):
                    return str(words)
    return ""
