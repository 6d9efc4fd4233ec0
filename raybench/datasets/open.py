"""A dataset's name -> its images, from where they lie on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.catalogue import Entry
from raybench.tasks.protocol import DataFacts


def open_dataset(name: str, params: Mapping[str, Any], root: Path | None) -> Any:
    """The dataset `name`, opened; `root` is its folder (None for one that is embedded in a library).

    Classification sets give a `raybench.datasets.data.Data`. UserError when the folder isn't what it should be.
    """
    entry = registry.dataset.entry(name)
    return registry.dataset.load(name)(facts_of(entry), root, **params)


def facts_of(entry: Entry) -> DataFacts:
    """The literals beside a dataset's name, as a record."""
    known = {field.name for field in fields(DataFacts)}
    return DataFacts(name=entry.name, **{key: value for key, value in entry.facts.items() if key in known})
