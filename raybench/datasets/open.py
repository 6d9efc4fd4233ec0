"""Opens a dataset by name from its folder on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.catalogue import Entry
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError


def open_dataset(name: str, params: Mapping[str, Any], root: Path | None) -> Any:
    """Open the dataset `name`; `root` is its folder (None for one that is embedded in a library).

    Returns `data.Data` for classification; `boxes.BoxData` or `label_cache.LabelSource` for detection.
    UserError when the folder lacks something, may not be read or has another layout.
    """
    entry = registry.dataset.entry(name)
    try:
        return registry.dataset.load(name)(facts_of(entry), root, **params)
    except PermissionError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"dataset {name!r}: {where}this user may not read it ({error.strerror or error}); change its rights "
            "(chmod -R a+rX), or run as its owner"
        ) from error


def facts_of(entry: Entry) -> DataFacts:
    """The facts registered with a dataset's name."""
    known = {field.name for field in fields(DataFacts)}
    return DataFacts(name=entry.name, **{key: value for key, value in entry.facts.items() if key in known})
