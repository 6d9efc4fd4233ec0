"""Exceptions that misbehave: each becomes a message and a traceback that a file can hold."""

from __future__ import annotations

import sys

import pytest

from raybench.error_text import MOST, message_of, name_of, traceback_of
from raybench.errors import said
from raybench.execution.child import portable


class Lying(type):
    """A metaclass whose classes have no name."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError("no name")


class Unnamed(Exception, metaclass=Lying):
    """Its type's name raises."""


class Silent(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Exits(BaseException):
    """Its text ends the process."""

    def __str__(self) -> str:
        sys.exit(0)


class Number(Exception):
    """Its text is none."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Text(str):
    """Text that can't be written."""

    def encode(self, *_: object) -> bytes:
        raise RuntimeError("no bytes")


class Odd(Exception):
    """Its text is of a class of its own."""

    def __str__(self) -> str:
        return Text("odd")


MESSAGES = {
    ValueError("plain"): ("ValueError", "plain"),
    ValueError("a\udcff\ud800b"): ("ValueError", "a\\udcff\\ud800b"),
    Silent(): ("Silent", "its message can't be made text: RuntimeError in its __str__"),
    Exits(): ("Exits", "its message can't be made text: SystemExit in its __str__"),
    Number(): ("Number", "its message can't be made text: TypeError in its __str__"),
    Unnamed("x"): ("Unnamed", "x"),
    Odd(): ("Odd", "odd"),
    KeyError(): ("KeyError", ""),
    ValueError("x" * 5_000_000): ("ValueError", f"{'x' * MOST}... (5000000 characters)"),
}


@pytest.mark.parametrize("error", MESSAGES, ids=name_of)
def test_an_error_has_a_message_and_a_traceback(error) -> None:
    assert (name_of(error), message_of(error)) == MESSAGES[error]
    try:
        raise error
    except BaseException as raised:
        text, line = traceback_of(raised), said(raised)
    assert text.encode()
    assert name_of(error) in text
    assert len(line.splitlines()) == 1
    assert line.encode()


def test_an_error_that_another_process_raises_has_a_text_there() -> None:
    for error in (Silent(), Unnamed("x"), ValueError("a\udcff")):
        assert isinstance(portable(error), Exception)
