"""Hashes of canonical JSON, which ids and keys are made of."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

ID_LENGTH = 16  # hex digits of the SHA-256 that are kept: 64 bits, no collision below a billion cells


def digest(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the parts' canonical JSON (sorted keys, no spaces)."""
    return hashed(canonical(parts))


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@lru_cache(maxsize=4096, typed=True)  # 2 and 2.0 are written differently
def canonical_scalar(value: bool | int | float | str) -> str:
    """`canonical`, remembered."""
    return canonical(value)


def hashed(text: str) -> str:
    """First 16 hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
