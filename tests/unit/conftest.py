"""Fixtures of all unit tests."""

import signal
import threading

import pytest

from raybench import registry


@pytest.fixture(autouse=True)
def no_plugins_left():
    """Plug-in files that a test adds are forgotten after it."""
    yield
    for one in registry.KINDS:
        if one._plugins:
            one._plugins, one._entries = [], None


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive():
    """Shells ignore SIGINT for commands in the background, and so would all that the tests start and interrupt."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)
