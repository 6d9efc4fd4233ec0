"""A method with the parameters that differ from its defaults, as text: ``magnitude-l2(power=1)+group-norm``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raybench import registry


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
    parts = ((registry.importance, trial["importance"]), (registry.regularizer, trial["regularizer"]))
    return "+".join(_part(names, part) for names, part in parts if part)


def _part(names: registry.Registry, part: Mapping[str, Any]) -> str:
    entry = names.entries().get(part["name"])
    defaults = entry.params if entry else {}
    own = {name: value for name, value in (part["params"] or {}).items() if defaults.get(name) != value}
    shown = ", ".join(f"{name}={_text(value)}" for name, value in own.items())
    return f"{part['name']}({shown})" if shown else part["name"]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
