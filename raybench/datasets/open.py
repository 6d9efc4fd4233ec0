"""A dataset's name -> its images, from where they lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.catalogue import Entry
from raybench.errors import UserError
from raybench.tasks.protocol import DataFacts

ROOT_VARIABLE = "RAYBENCH_DATA"


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


def data_root(name: str, roots: Mapping[str, Path]) -> Path | None:
    """The folder of dataset `name`: `roots[name]`, else RAYBENCH_DATA/name; None for an embedded one.

    UserError naming what was looked for when there is no such folder.
    """
    if registry.dataset.entry(name).facts.get("embedded"):
        return None
    if name in roots:
        root, source = Path(roots[name]).expanduser(), f"data_roots: {name}"
    elif os.environ.get(ROOT_VARIABLE):
        root, source = Path(os.environ[ROOT_VARIABLE]).expanduser() / name, ROOT_VARIABLE
    else:
        raise UserError(
            f"dataset {name!r} needs its folder: set {ROOT_VARIABLE} to a folder with a subfolder {name!r}, "
            f"or data_roots: {{{name}: FOLDER}} in the sweep"
        )
    if not root.is_dir():
        raise UserError(f"dataset {name!r}: found no folder {root} (from {source})")
    return root
