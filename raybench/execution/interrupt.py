"""Ctrl-C: the first asks the run to end well, the second ends it. SIGTERM, as a job manager sends it, counts too."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def first_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` at the first signal, in the main thread between two of its steps; the second interrupts it.

    Outside the main thread, where Python gets no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, second)
        action()

    def second(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, first) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
