"""Standard output that shows control characters as escapes, and standard error that may be lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TextIO

from raybench.errors import printable


class PrintableStream:
    """A text stream that passes on what is written, with control characters as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.unfiltered = stream
        self.is_over = False  # a library that kept the stream resets the terminal's colours when the process ends

    def write(self, text: str) -> int:
        """Write `text` without control characters; returns its length."""
        self.unfiltered.write(text if self.is_over else printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Context in which `print` writes no control characters to standard output. Standard error is left to libraries."""
    before = sys.stdout
    sys.stdout = stream = PrintableStream(before or _nowhere())
    try:
        yield
    finally:
        sys.stdout, stream.is_over = before, True


class LossyStream:
    """A text stream whose text is dropped from the moment on at which it can't be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; returns its length."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: somebody closed it
            self._lose()
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lose()

    def _lose(self) -> None:
        """Send what follows nowhere: Python writes what waits once more when the process ends."""
        with suppress(OSError, ValueError):
            os.dup2(_nowhere().fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lossy_errors() -> Iterator[None]:
    """Context in which a standard error that is gone ends no command: a closed terminal, `2>&1 | head`, a full disk."""
    before = sys.stderr
    sys.stderr = LossyStream(before or _nowhere())
    try:
        yield
    finally:
        sys.stderr = before


@cache
def _nowhere() -> TextIO:
    """Where text goes that nobody reads; also in place of a stream that was closed when the process began."""
    return open(os.devnull, "w")
