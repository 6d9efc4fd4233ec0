"""The seal of a result file: the SHA-256 of all its bytes, in its own metadata. Needs no Arrow.

The hash is made over the file with zeros where the hash stands. Files of schemas 1 and 2 have no seal.
"""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO

from raybench.results.columns import SCHEMA_VERSION

VERSION_KEY, SEAL_KEY = b"raybench.schema", b"raybench.sha256"
BLANK = b"0" * 64
SEALED_SINCE = 3  # version of the schema

_SEAL = re.compile(SEAL_KEY + rb"\x18\x40([0-9a-f]{64})")  # in Thrift: the key, then a string of 64 bytes
_VERSION = re.compile(VERSION_KEY + rb"\x18.([0-9]+)", re.DOTALL)
_CHUNK = 1 << 20


def sealed(data: bytes) -> bytes:
    """`data`, a Parquet file whose metadata has SEAL_KEY: BLANK, with its hash in that place."""
    found = list(_SEAL.finditer(data))[-1]
    if found[1] != BLANK:
        raise ValueError("expected a file without a seal")
    return data[: found.start(1)] + hashlib.sha256(data).hexdigest().encode() + data[found.end(1) :]


def broken_seal(file: BinaryIO) -> str | None:
    """Why the content of a seekable `file` can't be what raybench wrote; None if it can.

    Reads the whole file, by pieces.
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
