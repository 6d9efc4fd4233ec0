"""A user's own code, named `module:function`: where its files lie and what they hash to, found without importing it."""

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
    """SHA-256 of the code behind a user's `module:function`, found without importing it; None for `timm:NAME`.

    That is of the module's file and, where it imports others of the same folder tree, of all of them together.
    Installed packages are no part of it; nor is what only running the code would tell, such as a computed name.
    Raises SpecError when the Python path and the current folder have no such module.
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
        return hashes[own]  # as it was before imports were followed: a single file keeps its trials' ids
    told = sorted((file.relative_to(_root(module, own)).as_posix(), digest) for file, digest in hashes.items())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


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


def _own_files(module: str, file: Path) -> dict[Path, bytes]:
    """File -> content of `module` and of all that it imports, however deep, from the folder tree that it lies in."""
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
        if content.strip():  # an empty __init__.py says nothing
            found[origin] = content
        package = name if origin.stem == "__init__" else name.rpartition(".")[0]
        if origin.suffix == ".py":  # others are compiled
            waiting += _imports(content, package)
        waiting += _parents(name)
    return found


def _file_of(module: str) -> Path | None:
    spec = find_module(module)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _imports(content: bytes, package: str) -> Iterator[str]:
    """Dotted names that a module of `package` may import; names that aren't modules are among them."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):  # importing it will say so
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(module: str, level: int, package: str) -> str:
    """The dotted name that `module` after `level` dots means inside `package`."""
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
    """Whether `file` is the environment's, or ours: what those are is told by versions."""
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(file.is_relative_to(place) for place in [*places, ROOT / "raybench"]) or any(
        part in ("site-packages", "dist-packages") for part in file.parts
    )
