"""A seekable file over an object that is read by byte ranges.

Own code, as pyarrow needs `closed` and a context manager, which obstore 0.12's `ReadableFile` lacks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class RangeReader(io.RawIOBase):
    """Reads only the ranges asked for; wrap it in `io.BufferedReader` to avoid many small requests."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        """`read_range`: (start, stop) in bytes -> content; `size` of the whole object in bytes."""
        self._read_range, self._size, self._position = read_range, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to `offset` from the start, the current position or the end; returns the new position."""
        self._position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # typeshed: any Buffer
        """Fill `buffer` from the current position, by one request; returns the number of bytes, 0 at the end."""
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._read_range(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
