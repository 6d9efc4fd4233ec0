"""Unique labels for configurations of one method: the settings that differ are appended in brackets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from raybench.sweep.kinds import WHOLE
from raybench.sweep.method_label import with_params

SHA256 = re.compile("[0-9a-f]{64}")
KINDS = ("importance", "regularizer")  # the parts of a method, in the order of its name
_DEFAULTS = {"transfer": "none", "depth": WHOLE, "image_size": "own"}  # of fields that trials leave out
_NOT_THE_CONFIG = (  # the last one follows from a method's parameters
    "seed", "base_seed", "speedup", "target", "recipe.name", "importance.seeded",
)  # fmt: skip


def unique_labels(
    rows: Sequence[Mapping[str, Any]], trials: Callable[[Sequence[str]], Mapping[str, Any]], shown: Sequence[str]
) -> dict[str, str]:
    """config_id -> label: the method, plus the differing settings where rows are equal in the printed columns `shown`.

    Differing parameters stand as they are typed, ``cp(points=20)``, other settings behind: ``cp (epochs=3)``.

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
            flat = {row["config_id"]: dict(flattened(found[row["trial_id"]])) for row in same}
            for config_id, differing in _differences(flat).items():
                labels[config_id] = _label(labels[config_id], differing)
    return labels


def _label(method: str, differing: Mapping[str, Any]) -> str:
    """The method with its differing parameters, and the other settings that differ."""
    parts = []
    rest = {name: value for name, value in differing.items() if ".params." not in name}
    for kind, name in zip(KINDS, method.split("+"), strict=False):
        own = f"{kind}.params."
        params = {key.removeprefix(own): value for key, value in differing.items() if key.startswith(own)}
        parts.append(with_params(name, {key: value for key, value in params.items() if value is not None}))
    others = ", ".join(f"{_short(name)}={_text(value)}" for name, value in rest.items())
    return "+".join(parts) + (f" ({others})" if others else "")


def _differences(flat: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    names = sorted({name for settings in flat.values() for name in settings} - set(_NOT_THE_CONFIG))
    varying = [name for name in names if len({repr(settings.get(name)) for settings in flat.values()}) > 1]
    if "transfer" in varying:  # it says of which kind the weights are
        varying = [name for name in varying if not name.startswith(("weights.", "transfer_from"))]
    return {key: {name: settings.get(name, _DEFAULTS.get(name)) for name in varying} for key, settings in flat.items()}


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested mappings."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flattened(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def _short(name: str) -> str:
    """`finetune.epochs` for recipe.finetune.epochs, `file` for a source, `image_size` for dataset_params.image_size."""
    if name in ("importance.source", "regularizer.source"):
        return "file"
    return name.rpartition("_params.")[2].removeprefix("recipe.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    if isinstance(value, str) and SHA256.fullmatch(value):
        return value[:8]
    return f"{value:g}" if isinstance(value, float) else str(value)
