"""Finds and hashes the source files of a user's `module:function` without importing them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from raybench.catalogue import ROOT
from raybench.errors import SpecError


def module_source(name: str) -> str | None:
    """SHA-256 of the source of a user's `module:function`; None for `timm:NAME`. Nothing is imported.

    It covers the module's file and all files of the same folder tree that it imports, directly or indirectly.
    Installed packages and imports by computed names are not covered. Raises SpecError when neither the Python path
    nor the current folder has the module.
    """
    module = name.partition(":")[0]
    if module == "timm":
        return None
    spec = find_module(module)
    if spec is None or not spec.origin:
        raise SpecError(f"model {name!r}: {not_found(module)}")
    own = Path(spec.origin)
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in _own_files(module, own).items()}
    if len(hashes) == 1:
        return hashes[own]  # ids of trials from before imports were followed stay valid
    pairs = sorted((file.relative_to(_root(module, own)).as_posix(), digest) for file, digest in hashes.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def find_module(module: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of the dotted name `module` on the Python path and in the current folder; None if there is none."""
    path: list[str] = [*sys.path, os.getcwd()]
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        path = list(spec.submodule_search_locations or []) if spec else []
    return spec


def reach_current_folder() -> None:
    """Append the current folder to the Python path, last, so that it shadows no library."""
    importlib.invalidate_caches()  # or files written since the last import would not be found
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def not_found(module: str) -> str:
    """Message for a missing `module`, with the places that were searched."""
    return f"found no module {module!r} in this folder ({os.getcwd()}) or on the Python path (set PYTHONPATH)"


def _own_files(module: str, file: Path) -> dict[Path, bytes]:
    """File -> content of `module` and of all modules of its folder tree that it imports, directly or indirectly."""
    root, found = _root(module, file), {file: file.read_bytes()}
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        origin = None if name in seen else _file_of(name)
        seen.add(name)
        if origin is None or not origin.is_relative_to(root) or _installed(origin):
            continue
        content = origin.read_bytes()
        if content.strip():  # skips an empty __init__.py
            found[origin] = content
        package = name if origin.stem == "__init__" else name.rpartition(".")[0]
        if origin.suffix == ".py":  # others are compiled, their imports unknown
            waiting += _imports(content, package)
        waiting += _parents(name)
    return found


def _file_of(module: str) -> Path | None:
    spec = find_module(module)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _imports(content: bytes, package: str) -> Iterator[str]:
    """Dotted names that a module of `package` may import; some are attributes of modules."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):  # importing it reports the error
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(module: str, level: int, package: str) -> str:
    """Absolute name of the relative import of `module` with `level` dots inside `package`."""
    if not level:
        return module
    above = package.rsplit(".", level - 1)[0]
    return f"{above}.{module}" if module else above


def _parents(module: str) -> Iterator[str]:
    """The packages that importing `module` imports first."""
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _root(module: str, file: Path) -> Path:
    """The folder that holds the outermost package of `module`."""
    return file.parents[module.count(".") + (file.stem == "__init__")]


def _installed(file: Path) -> bool:
    """Whether `file` belongs to an installed package, Python or raybench: identified by version, not by hash."""
    places = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(file.is_relative_to(place) for place in [*places, ROOT / "raybench"]) or any(
        part in ("site-packages", "dist-packages") for part in file.parts
    )
