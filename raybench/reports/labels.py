"""Unique labels for configurations of one method: the settings that differ are appended in brackets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

SHA256 = re.compile("[0-9a-f]{64}")
_NOT_THE_CONFIG = ("seed", "base_seed", "speedup", "recipe.name")


def unique_labels(
    rows: Sequence[Mapping[str, Any]], trials: Callable[[Sequence[str]], Mapping[str, Any]], shown: Sequence[str]
) -> dict[str, str]:
    """config_id -> label: the method, plus the differing settings where rows are equal in the printed columns `shown`.

    `trials` returns trial_id -> resolved trial; it is called only if rows are equal.
    """
    alike: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(row[name] for name in shown), []).append(row)
    labels = {row["config_id"]: row["method"] for row in rows}
    if len(alike) == len(rows):
        return labels
    found = trials([row["trial_id"] for same in alike.values() if len(same) > 1 for row in same])
    for same in alike.values():
        if len(same) > 1:
            flat = {row["config_id"]: dict(_flatten(found[row["trial_id"]])) for row in same}
            for config_id, differing in _differences(flat).items():
                labels[config_id] += f" ({', '.join(differing)})"
    return labels


def _differences(flat: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    names = sorted({name for settings in flat.values() for name in settings} - set(_NOT_THE_CONFIG))
    varying = [name for name in names if len({repr(settings.get(name)) for settings in flat.values()}) > 1]
    return {key: [f"{_short(n)}={_text(settings.get(n))}" for n in varying] for key, settings in flat.items()}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def _short(name: str) -> str:
    """`strength` for regularizer.params.strength, `finetune.epochs` for recipe.finetune.epochs, `file` for a source."""
    if name in ("importance.source", "regularizer.source"):
        return "file"
    return name.rpartition(".params.")[2].removeprefix("recipe.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    if isinstance(value, str) and SHA256.fullmatch(value):
        return value[:8]
    return f"{value:g}" if isinstance(value, float) else str(value)
