"""Between a trial of Ray Tune and the first process of its team: units go one way, their outcomes the other."""

from __future__ import annotations

import asyncio
from typing import Any

Given = tuple[str, str]  # an encoded unit and its encoded grant


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

    async def put(self, given: Given) -> bool:
        """Give a unit to the processes; False if they take no more."""
        if not self._closed:
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

    def __init__(self, idle_s: float) -> None:
        import ray

        self._actor: Any = ray.remote(num_cpus=0)(Box).remote(idle_s)

    def put(self, given: Given) -> bool:
        """See `Box.put`."""
        return self._answer("put", given)

    def take(self) -> Given | None:
        """See `Box.take`."""
        return self._answer("take")

    def answer(self, outcome: str, *, last: bool) -> None:
        """See `Box.answer`."""
        self._answer("answer", outcome, last)

    def outcome(self, wait_s: float) -> str | None:
        """See `Box.outcome`."""
        return self._answer("outcome", wait_s)

    def close(self) -> bool:
        """See `Box.close`."""
        return self._answer("close")

    def _answer(self, name: str, *given: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, name).remote(*given))
