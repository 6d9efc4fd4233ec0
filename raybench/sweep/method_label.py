"""A method with its parameters as text, as printed and typed: ``cp(points=20)+group-norm(strength=0.001)``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from raybench import registry

EXPECTED = "NAME(PARAMETER=VALUE, ...), such as cp(points=20) or lamp+group-norm(strength=0.001)"
_PART = r"\s*([^()+\s]+)\s*(?:\(([^()]*)\))?\s*"
_LABEL = re.compile(rf"{_PART}(?:\+{_PART})?")
_COMMA = re.compile(r",(?![^\[\]]*\])")  # not one inside a list


def method_label(trial: Mapping[str, Any]) -> str:
    """The label of a trial's method.

    Args:
        trial: the resolved trial as plain data, or at least its `importance` and `regularizer`.

    Returns:
        The method's name, each part with the parameters whose values aren't the registered defaults; all of them for a
        plug-in that is not loaded here.

    Example:
        >>> method_label({"importance": {"name": "lamp", "params": {}}, "regularizer": None})
        'lamp'
    """
    parts = ((registry.CHOICE, trial["importance"]), (registry.regularizer, trial["regularizer"]))
    return "+".join(_part(names, part) for names, part in parts if part)


def read_label(text: str) -> tuple[str, dict[str, str], dict[str, str]] | None:
    """The parts of a label: the method's name, and the texts of its criterion's and its regularizer's parameters.

    Returns:
        None for what isn't of that form.

    Example:
        >>> read_label("cp(points=20)+group-norm"), read_label("cp(points")
        (('cp+group-norm', {'points': '20'}, {}), None)
    """
    found = _LABEL.fullmatch(text)
    if not found:
        return None
    importance, own, regularizer, others = found.groups()
    params, regularizer_params = _params(own), _params(others)
    if params is None or regularizer_params is None:
        return None
    return "+".join(filter(None, (importance, regularizer))), params, regularizer_params


def with_params(name: str, params: Mapping[str, Any]) -> str:
    """A name with parameters: ``cp(points=20)``; the name alone for none.

    Example:
        >>> with_params("cp", {"points": 20}), with_params("lamp", {})
        ('cp(points=20)', 'lamp')
    """
    shown = ", ".join(f"{key}={_text(value)}" for key, value in params.items())
    return f"{name}({shown})" if shown else name


def _part(names: registry.Registry | registry.Either, part: Mapping[str, Any]) -> str:
    entry = names.entries().get(part["name"])
    defaults = entry.params if entry else {}
    own = {name: value for name, value in (part["params"] or {}).items() if defaults.get(name) != value}
    return with_params(part["name"], own)


def _params(text: str | None) -> dict[str, str] | None:
    """``a=1, b=2`` as a dict; None where a part is no such pair, or a name stands twice."""
    found: dict[str, str] = {}
    for pair in _COMMA.split(text) if text and text.strip() else ():
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value) or name in found:
            return None
        found[name] = value
    return found


def _text(value: Any) -> str:
    """A value as it is typed; a number with as many digits as it takes to read back the same."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
