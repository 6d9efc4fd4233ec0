"""A user's own code, named `module:function`: where its file lies and what it hashes to, found without importing it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import os
import sys
from pathlib import Path

from raybench.errors import SpecError


def module_source(name: str) -> str | None:
    """SHA-256 of the file behind a user's `module:function`, found without importing it; None for `timm:NAME`.

    Raises SpecError when the Python path and the current folder have no such module.
    """
    module = name.partition(":")[0]
    if module == "timm":
        return None
    spec = find_module(module)
    if spec is None or not spec.origin:
        raise SpecError(f"model {name!r}: {not_found(module)}")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def find_module(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where Python would find the dotted name `module` after `reach_current_folder`; None when it would not."""
    path: list[str] = [*sys.path, os.getcwd()]
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        path = list(spec.submodule_search_locations or []) if spec else []
    return spec


def reach_current_folder() -> None:
    """Let modules of the current folder be imported too. It comes last, so that no library is ever shadowed by it."""
    importlib.invalidate_caches()  # files written a moment ago count
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def not_found(module: str) -> str:
    """That `module` isn't there, and where was looked."""
    return f"found no module {module!r} in this folder ({os.getcwd()}) or on the Python path (set PYTHONPATH)"
