"""Standard output that shows control characters of names and messages as escapes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    sys.stdout = stream = PrintableStream(before)
    try:
        yield
    finally:
        sys.stdout, stream.is_over = before, True
