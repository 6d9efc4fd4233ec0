"""Hashes of canonical JSON, which ids and keys are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

ID_LENGTH = 16  # hex digits of the SHA-256 that are kept: 64 bits, no collision below a billion cells
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the parts' canonical JSON (sorted keys, no spaces)."""
    return hashed(canonical(parts))


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces."""
    return _ENCODER.encode(value)


def canonical_scalar(value: bool | int | float | str) -> str:
    """`canonical` of one value, fast where many cells have the same."""
    return str(value) if type(value) is int else _remembered(value)  # seeds are many


@lru_cache(maxsize=4096, typed=True)  # 2 and 2.0 are written differently
def _remembered(value: bool | float | str) -> str:
    return canonical(value)


class Form(NamedTuple):
    """Canonical JSON of an object in which some values are left open: what thousands of cells share is written once."""

    text: str  # for the operator %
    gaps: tuple[str, ...]  # keys of the open values, in the order of the text

    @classmethod
    def of(cls, fields: Mapping[str, Any], gaps: Collection[str]) -> Form:
        """The form of an object with `fields`; the values of the keys in `gaps` are left open."""
        texts = {name: canonical(value).replace("%", "%%") for name, value in fields.items()}
        texts |= dict.fromkeys(gaps, "%s")
        text = ",".join(f"{canonical(name).replace('%', '%%')}:{texts[name]}" for name in sorted(texts))
        return cls(f"{{{text}}}", tuple(sorted(gaps)))

    def filled(self, values: Mapping[str, bool | int | float | str]) -> str:
        """The object's canonical JSON with these values in the gaps."""
        return self.text % tuple([canonical_scalar(values[name]) for name in self.gaps])


def digest_of(*texts: str) -> str:
    """`digest` of parts that are canonical JSON already."""
    return hashed(f"[{','.join(texts)}]")


def hashed(text: str) -> str:
    """First 16 hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
