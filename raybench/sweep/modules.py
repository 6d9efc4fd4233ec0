"""Finds and hashes the source files of a user's `module:function` and plug-ins without importing them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raybench.catalogue import ROOT, Entry
from raybench.errors import SpecError, nearest
from raybench.sweep.timm_parameters import strange_of_timm

DYNAMIC = {"globals", "vars", "locals", "exec", "setattr"}  # calls by which a module may get names of its own


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


def plugin_source(entry: Entry) -> str | None:
    """SHA-256 of the code of a registered name; None for raybench's own, which is identified by version.

    It covers the plug-in's file and the modules that it imports, directly or indirectly: those beside it, in the
    current folder and on the Python path. Of installed packages it covers the plug-in's own alone.
    """
    if entry.source is None:
        return None
    package, _, _ = (entry.module or "").partition(".")

    def counts(name: str, file: Path) -> bool:
        return file != entry.file and (name.partition(".")[0] == package or not _installed(file))

    names = _imports(entry.file.read_bytes(), (entry.module or "").rpartition(".")[0])
    helpers = {
        name: hashlib.sha256(content).hexdigest() for name, _, content in _followed(names, counts, entry.file.parent)
    }
    if not helpers:
        return entry.source  # ids of trials from before imports were followed stay valid
    return hashlib.sha256(json.dumps([entry.source, sorted(helpers.items())]).encode()).hexdigest()


def find_module(module: str, *folders: Path) -> importlib.machinery.ModuleSpec | None:
    """The spec of the dotted name `module` on the Python path, in the current folder and in `folders`; None if none."""
    path: list[str] = [*sys.path, os.getcwd(), *map(str, folders)]
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


def own_module(model: str) -> str | None:
    """The module of a model given as ``module:function``; None for registered names and timm's.

    Example:
        >>> own_module("nets.mine:net"), own_module("timm:resnet18"), own_module("resnet18")
        ('nets.mine', None, None)
    """
    module, colon, _ = model.partition(":")
    return module if colon and module != "timm" else None


def not_found(module: str) -> str:
    """Message for a missing `module`, with the places that were searched."""
    near = nearest(module, sorted(file.stem for file in Path().glob("*.py")))
    where = f"in this folder ({os.getcwd()}) or on the Python path (set PYTHONPATH)"
    return f"found no module {module!r} {where}{near and f'.{near}'}"


def as_module(name: str) -> str:
    """`name` of a model with a file in place of its module as ``module:function``; other names unchanged.

    Example:
        >>> as_module("nets/mine.py:net"), as_module("timm:resnet18")
        ('nets.mine:net', 'timm:resnet18')
    """
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return name
    path = Path(file)
    inside = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{'.'.join(part for part in inside.with_suffix('').parts if part != '.')}:{function}"


def module_hint(name: str) -> str | None:
    """Message for a model typed as a file, a module or `module.function` of the current folder; None for other names.

    Nothing is imported: the functions and classes are read from the file's syntax tree.
    """
    dotted = name.removesuffix(".py").replace("/", ".")
    outer, _, inner = dotted.rpartition(".")
    for module, wanted in ((dotted, ""), (outer, inner)):
        file = Path(f"{module.replace('.', '/')}.py")
        if module and file.is_file():
            found = [f"{module}:{own}" for own in _builders(file) if not wanted or own == wanted]
            typed = " or ".join(found[:3]) if found else f"{module}:FUNCTION"
            return f"found {name!r}, expected module:function. {file} is in this folder: type {typed}"
    return None


def check_function(name: str) -> None:
    """SpecError where the module of a user's `module:function` binds no such name. Nothing is imported.

    Modules whose names can't be known without running them pass, and so do those that aren't there.
    """
    module, _, function = name.partition(":")
    spec = find_module(module) if module != "timm" else None
    names = _bound(Path(spec.origin)) if spec and spec.origin else frozenset()
    if names and function not in names:
        near = nearest(function, (one for one in names if not one.startswith("_")))
        where = spec.origin if spec else module
        raise SpecError(f"model {name!r}: {where} has no function {function!r}.{near}".removesuffix("."))


def strange_parameters(name: str, given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(message, parameter) for those of `given` that the function of `module:function`, or `timm:NAME`, doesn't take.

    Nothing is imported. Functions that take any, that are decorated or made otherwise have none, so far as is known.
    """
    module, _, rest = name.partition(":")
    if module == "timm":
        yield from strange_of_timm(rest, given)
        return
    taken = _parameters(name)
    for one in given if taken is not None else ():
        if one not in (taken or ()):
            known = ", ".join(taken or ()) or "none"
            yield f"unknown parameter of model {name!r}.{nearest(one, taken or ())} Known: {known}", one


def _parameters(name: str) -> tuple[str, ...] | None:
    """Names of the arguments of the only function or class `module:function`; None where they can't be known."""
    module, _, function = name.partition(":")
    file = _file_of(module)
    try:
        tree = ast.parse(file.read_bytes()) if file and file.suffix == ".py" else None
    except (SyntaxError, ValueError, OSError, RecursionError):
        return None
    kinds = ast.FunctionDef | ast.ClassDef
    found = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == function] if tree else []
    if len(found) != 1 or found[0].decorator_list or found[0] not in getattr(tree, "body", ()):
        return None
    node, own = found[0], 0
    if isinstance(node, ast.ClassDef):
        makers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name in ("__init__", "__new__")]
        if len(makers) != 1 or makers[0].decorator_list or node.keywords:
            return None
        node, own = makers[0], 0 if makers[0].args.posonlyargs else 1  # without self
    if node.args.kwarg:
        return None
    return tuple(one.arg for one in (*node.args.args[own:], *node.args.kwonlyargs))


def _bound(file: Path) -> frozenset[str]:
    """Every name that a source file binds, at any depth; none where they can't be known without running it."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes()))) if file.suffix == ".py" else []
    except (SyntaxError, ValueError, OSError, RecursionError):
        return frozenset()
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DYNAMIC:
            return frozenset()
    return frozenset() if found & {"*", "__getattr__"} else frozenset(found)


def _builders(file: Path) -> list[str]:
    """Public functions and classes of a file that may build a network; none if it can't be parsed."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    own = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in own if not node.name.startswith("_")]


def _own_files(module: str, file: Path) -> dict[Path, bytes]:
    """File -> content of `module` and of all modules of its folder tree that it imports, directly or indirectly."""
    root = _root(module, file)
    reached = _followed([module], lambda _, origin: origin.is_relative_to(root) and not _installed(origin))
    own = {origin: content for _, origin, content in reached if content.strip()}  # without an empty __init__.py
    return {file: file.read_bytes()} | own


def _followed(
    names: Iterable[str], counts: Callable[[str, Path], bool], *folders: Path
) -> Iterator[tuple[str, Path, bytes]]:
    """(dotted name, file, content) of each module among `names` that `counts`, and of those that these import.

    `folders` are searched besides the Python path and the current folder.
    """
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        origin = None if name in seen else _file_of(name, *folders)
        seen.add(name)
        if origin is None or not counts(name, origin):
            continue
        content = origin.read_bytes()
        yield name, origin, content
        package = name if origin.stem == "__init__" else name.rpartition(".")[0]
        if origin.suffix == ".py":  # others are compiled, their imports unknown
            waiting += _imports(content, package)
        waiting += _parents(name)


def _file_of(module: str, *folders: Path) -> Path | None:
    spec = find_module(module, *folders)
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
