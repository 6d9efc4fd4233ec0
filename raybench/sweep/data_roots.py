"""Finds the folder of a dataset on this machine and fingerprints a user's data. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from raybench import registry
from raybench.errors import UserError

ROOT_VARIABLE = "RAYBENCH_DATA"


def data_root(name: str, roots: Mapping[str, Path | str]) -> Path | None:
    """The folder of dataset `name`: `roots[name]`, else RAYBENCH_DATA/name; None for data inside a library.

    Raises UserError, naming the folder or variable, when there is no such folder.
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


def fingerprint(root: Path) -> str:
    """Hash of the sorted list of (path, size) of the files below `root`: the identity of a user's data."""
    hasher = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            hasher.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\n".encode())
    return hasher.hexdigest()[:16]
