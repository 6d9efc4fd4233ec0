"""The seal of a result file: the SHA-256 of all its bytes, in its own metadata. Needs no Arrow.

The hash is made over the file with zeros where the hash stands. Files of schemas 1 and 2 have no seal.
"""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO

from raybench.results.columns import SCHEMA_VERSION

VERSION_KEY, SEAL_KEY = b"raybench.schema", b"raybench.sha256"
ROWS_KEY = b"raybench.rows"  # in files whose rows all had their own checksum when written; the value is `rows_mark`
BLANK = b"0" * 64
SEALED_SINCE = 3  # version of the schema

_SEAL = re.compile(SEAL_KEY + rb"\x18\x40([0-9a-f]{64})")  # in Thrift: the key, then a string of 64 bytes
_VERSION = re.compile(VERSION_KEY + rb"\x18.([0-9]+)", re.DOTALL)
_CHUNK = 1 << 20


def sealed(data: bytes) -> bytes:
    """A Parquet file with its hash in its metadata.

    Args:
        data: the file's content; its metadata has SEAL_KEY: BLANK.

    Returns:
        The same content, with its SHA-256 in the place of BLANK.

    Raises:
        ValueError: the content has a seal already.

    Example:
        >>> from raybench.results.encoding import encode
        >>> sealed(encode([{"seed": 0}]))  # encode seals
        Traceback (most recent call last):
            ...
        ValueError: expected a file without a seal
    """
    found = list(_SEAL.finditer(data))[-1]
    if found[1] != BLANK:
        raise ValueError("expected a file without a seal")
    return data[: found.start(1)] + hashlib.sha256(data).hexdigest().encode() + data[found.end(1) :]


def broken_seal(file: BinaryIO) -> str | None:
    """Why the content of a file can't be what raybench wrote.

    Args:
        file: a seekable file, which is read whole, by pieces.

    Returns:
        The reason; None if the content is as it was written.

    Example:
        >>> import io
        >>> from raybench.results.encoding import encode
        >>> data = encode([{"seed": 0}])
        >>> broken_seal(io.BytesIO(data)) is None
        True
        >>> broken_seal(io.BytesIO(data[:8] + b"x" + data[9:]))
        'its content is not what was written: its checksum differs'
    """
    start, footer = _footer(file)
    found, version = _last(_SEAL, footer), _last(_VERSION, footer)
    if version is None:
        return "no raybench schema in its metadata, so it is cut short or another program wrote it"
    if found is None:  # a newer raybench may seal in another way; the reader then says that it is newer
        return "its checksum is missing" if SEALED_SINCE <= int(version[1]) <= SCHEMA_VERSION else None
    file.seek(0)
    digest = hashlib.sha256()
    position, left = 0, start + found.start(1)
    while left:
        piece = file.read(min(left, _CHUNK))
        if not piece:
            return "it is cut short"
        digest.update(piece)
        position, left = position + len(piece), left - len(piece)
    digest.update(BLANK)
    file.seek(position + len(BLANK))
    while piece := file.read(_CHUNK):
        digest.update(piece)
    same = digest.hexdigest().encode() == found[1]
    return None if same else "its content is not what was written: its checksum differs"


def rows_mark(trial_id: str | None = None, status: str | None = None) -> bytes:
    """What a file says whose rows had their own checksums when it was written.

    Args:
        trial_id: trial of the row in a file of one row.
        status: status of that row.

    Returns:
        The value of ROWS_KEY. With the trial in it, a file that was renamed is noticed.

    Example:
        >>> rows_mark("0123456789abcdef", "ok"), rows_mark()
        (b'0123456789abcdef ok', b'checked')
    """
    return f"{trial_id} {status}".encode() if trial_id else b"checked"


def rows_checked(file: BinaryIO, mark: bytes) -> bool:
    """Whether the rows of a file need no check.

    Args:
        file: a seekable file whose seal is right.
        mark: the `rows_mark` that it should have.

    Returns:
        Whether it has it. Files of older versions have none.

    Example:
        >>> import io
        >>> from raybench.results.encoding import encode
        >>> rows_checked(io.BytesIO(encode([{"trial_id": "0123456789abcdef", "status": "ok"}])), rows_mark())
        False
    """
    return ROWS_KEY + b"\x18" + bytes([len(mark)]) + mark in _footer(file)[1]


def newer(file: BinaryIO) -> bool:
    """Whether a newer raybench wrote a file.

    Args:
        file: a seekable file.

    Returns:
        Whether the version of its schema is higher than ours.

    Example:
        >>> import io
        >>> from raybench.results.encoding import encode
        >>> newer(io.BytesIO(encode([{"seed": 0}])))
        False
    """
    version = _last(_VERSION, _footer(file)[1])
    return version is not None and int(version[1]) > SCHEMA_VERSION


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """(where the footer of a Parquet file starts, its bytes); the whole file if it says that it is larger."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(8)[:4], "little")
    start = max(0, size - 8 - length)
    file.seek(start)
    return start, file.read(size - start)


def _last(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None
