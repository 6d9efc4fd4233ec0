"""Ctrl-C: the first one stops the run in order, the second at once. SIGTERM, as job managers send it, counts too."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noted_interrupt(note: Callable[[], None]) -> Iterator[None]:
    """Call `note` at Ctrl-C, before the KeyboardInterrupt, which a library may catch or turn into another error.

    Does nothing where Ctrl-C is ignored or handled already, and outside the main thread.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        note()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def first_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` at the first signal, in the main thread; raise KeyboardInterrupt there at the second.

    Does nothing in other threads, where Python receives no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        for signal_number in SIGNALS:
            signal.signal(signal_number, second)
        action()

    def second(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signal_number: signal.signal(signal_number, first) for signal_number in SIGNALS}
    try:
        yield
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
