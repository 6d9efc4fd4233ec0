"""In what recipes of one name differ: `quick~b098` says that something of `quick` was changed, but not what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raybench.reports.labels import flattened
from raybench.results.constants import constant

MARK = "~"  # behind it stands a hash of what was changed
MOST = 6  # settings that are listed of a recipe
UNSET = object()


def recipe_notes(table: pa.Table, trials: Callable[[Sequence[str]], Mapping[str, Any]]) -> dict[str, str]:
    """Recipe -> its settings that not all recipes of its name share, e.g. ``speed.memory_format=auto``.

    Args:
        table: rows with the columns status, recipe and trial_id.
        trials: trial ids -> resolved trials by id; called only where several recipes share a name.

    Returns:
        A text for each recipe with finished rows that shares its name with another one; empty where it has only what
        most of them have.
    """
    rows = table.filter(pc.equal(table["status"], constant("ok"))).select(["recipe", "trial_id"])
    families: dict[str, list[str]] = {}
    for recipe in rows["recipe"].unique().to_pylist():
        families.setdefault(recipe.partition(MARK)[0], []).append(recipe)
    several = [{recipe: _first_of(rows, recipe) for recipe in family} for family in families.values() if family[1:]]
    if not several:
        return {}
    known = trials([trial_id for family in several for trial_id in family.values()])
    return {
        recipe: text
        for family in several
        for recipe, text in _notes(
            {name: dict(flattened(known[one]["recipe"])) for name, one in family.items()}
        ).items()
    }


def _first_of(rows: pa.Table, recipe: str) -> str:
    """The first trial id of a recipe. Arrow's own grouping would import pandas."""
    found: str = pc.min(rows.filter(pc.equal(rows["recipe"], constant(recipe)))["trial_id"]).as_py()
    return found


def _notes(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The text of each recipe. What most recipes have isn't said of them."""
    names = sorted({name for own in settings.values() for name in own} - {"name"})
    changed: dict[str, list[str]] = {recipe: [] for recipe in sorted(settings)}
    for name in names:
        counts = Counter(repr(own.get(name, UNSET)) for own in settings.values())
        if len(counts) == 1:
            continue
        common = {value for value, count in counts.items() if 2 * count > len(settings)}
        for recipe, texts in changed.items():
            value = settings[recipe].get(name, UNSET)
            if value is not UNSET and repr(value) not in common:
                texts.append(f"{name}={_text(value)}")
    return {recipe: _listed(texts) for recipe, texts in changed.items()}


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST} more" if len(texts) > MOST else ""
    return ", ".join(texts[:MOST]) + more
