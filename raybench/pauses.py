"""Lets long work stop for a moment between two of its steps, so that another process can take a timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

GiveWay = Callable[[], float]  # waits where somebody waits for this process; returns the seconds that it took


class _Pauses:
    """What is called between two steps, and the seconds that this has taken so far."""

    def __init__(self, give_way: GiveWay) -> None:
        self.give_way, self.seconds = give_way, 0.0


_current: ContextVar[_Pauses | None] = ContextVar("pauses", default=None)


@contextmanager
def pausing(give_way: GiveWay) -> Iterator[None]:
    """Inside, `pause` calls `give_way`; in this thread alone."""
    token = _current.set(_Pauses(give_way))
    try:
        yield
    finally:
        _current.reset(token)


def pause() -> None:
    """To be called between two steps of long work: training, evaluation, gradients of calibration images."""
    pauses = _current.get()
    if pauses is not None:
        pauses.seconds += pauses.give_way()


def paused_s() -> float:
    """Seconds that pauses have taken so far; the difference of two calls is no work."""
    pauses = _current.get()
    return pauses.seconds if pauses is not None else 0.0
