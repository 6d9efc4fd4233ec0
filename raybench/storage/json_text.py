"""Small JSON objects of a storage, read with the types of their fields checked: what is damaged is None, no error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any], bool]
MOST = 1e11  # a larger number is no time in seconds; as one since 1970 it is the year 5138


def read_object(data: bytes | None, fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Any:
    """The JSON object in `data` as a dict; None unless it has all of `fields`, each of a value that its check accepts.

    Args:
        data: the content of a file; None if there is none.
        fields: name -> check of what must be there.
        optional: name -> check of what may be there; other names are kept as they are.
    """
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    known = {**fields, **{name: check for name, check in (optional or {}).items() if name in found}}
    right = all(name in found and check(found[name]) for name, check in known.items())
    return found if right else None


def is_number(value: Any) -> bool:
    """A finite number that can be a time in seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < MOST


def is_process(value: Any) -> bool:
    """A number of a process."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_text_or_none(value: Any) -> bool:
    """A string, or null."""
    return value is None or isinstance(value, str)


def is_texts(value: Any) -> bool:
    """A list of strings."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def is_figures(value: Any) -> bool:
    """An object whose values are numbers; they may be NaN, as a score may."""
    return isinstance(value, dict) and all(isinstance(each, int | float) for each in value.values())


def is_object(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def is_method(value: Any) -> bool:
    """An object that names a method and has its parameters."""
    return isinstance(value, dict) and is_text(value.get("name")) and is_object(value.get("params"))


def is_any(value: Any) -> bool:
    """Whatever is there."""
    return True
