"""Reads registrations from a source file's syntax tree: names, facts and default parameters. Imports nothing."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybench.errors import UserError, nearest

ROOT = Path(__file__).parent.parent  # the folder that holds the package `raybench`
FACTS = {  # what class attributes of a method may say
    "needs": ("nothing", "weights", "gradients", "sample-gradients", "activations"),
    "labels": ("true", "sampled"),
    "reduce": ("mean", "sum", "max", "first"),
    "normalize": ("mean", "max", "sum", "lamp", "none"),
}
RESERVED = {"needs", "labels", "version", "requires", "min_images", "reconstructs", "paper"}
REQUIRED = "<required>"  # default of a parameter that has none


@dataclass(frozen=True)
class Entry:
    """One registered name: where its code is, and what can be read without running it."""

    kind: str
    name: str
    file: Path
    attribute: str
    summary: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)  # name -> default, REQUIRED where it has none
    module: str | None = None  # dotted name for packaged code, None for a plug-in file

    @property
    def source(self) -> str | None:
        """SHA-256 of the file, part of a trial's identity; None for raybench's own code, identified by `version`."""
        ours = (self.module or "").startswith("raybench.")
        return None if ours else hashlib.sha256(self.file.read_bytes()).hexdigest()


def read_entries(kind: str, file: Path, module: str | None) -> Iterator[Entry]:
    """Entries that `file` defines with ``@<kind>("name", ...)`` above a class or function.

    Raises UserError when the file can't be read or parsed, or a name or fact is not a literal.
    """
    if kind.encode() not in _source(file):
        return
    for node in tree_of(file).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and _last_name(mark.func) == kind and mark.args):
                continue
            facts, params = _data(node, file)
            name = _literal(mark.args[0], file)
            facts |= {k.arg: _literal(k.value, file) for k in mark.keywords if k.arg}
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            fixed = facts.get("args", {})
            params = {key: default for key, default in params.items() if key not in fixed}
            _check_facts(kind, facts, params, f"{file}:{node.lineno}: {node.name}")
            yield Entry(kind, name, file, node.name, summary, facts, params, module)


def _check_facts(kind: str, facts: Mapping[str, Any], params: Mapping[str, Any], where: str) -> None:
    """UserError for a fact of a method that is misspelt, or written with a type and so taken for a parameter."""
    if kind not in ("importance", "regularizer"):
        return
    for name in sorted(RESERVED & set(params)):
        raise UserError(f"{where}: `{name}` has a type, which makes it a parameter; write `{name} = ...` or ClassVar")
    for name, known in FACTS.items():
        if name in facts and facts[name] not in known:
            near = nearest(str(facts[name]), known)
            raise UserError(f"{where}: {name}: found {facts[name]!r}, expected one of {', '.join(known)}.{near}")


def _data(node: ast.ClassDef | ast.FunctionDef, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(facts, params) of a class, inherited ones included; a function has no facts, its params are its keywords."""
    if isinstance(node, ast.FunctionDef):
        return {}, _signature(node)
    facts: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for base in reversed(node.bases):
        found = _find_class(_last_name(base), file)
        if found:
            inherited_facts, inherited_params = _data(*found)
            facts |= inherited_facts
            params |= inherited_params
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            _keep(facts, item.targets[0].id, item.value)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if "ClassVar" in ast.dump(item.annotation):
                _keep(facts, item.target.id, item.value)
            else:
                params.setdefault(item.target.id, REQUIRED)
                _keep(params, item.target.id, item.value)
    return facts, params


def _signature(node: ast.FunctionDef) -> dict[str, Any]:
    """Keyword parameters of a function; positional ones without a default are passed by raybench, so left out."""
    params: dict[str, Any] = {}
    positional = node.args.posonlyargs + node.args.args
    pairs: list[tuple[ast.arg, ast.expr | None]] = [
        *zip(positional[len(positional) - len(node.args.defaults) :], node.args.defaults, strict=True)
    ]
    pairs += [*zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    for argument, default in pairs:
        params[argument.arg] = REQUIRED
        _keep(params, argument.arg, default)
    return params


def _find_class(name: str, file: Path) -> tuple[ast.ClassDef, Path] | None:
    """The class called `name` in the scope of `file`: defined there, or imported from raybench."""
    for node in _statements(tree_of(file)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, file
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "raybench":
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    origin = _file_of(node.module or "")
                    return _find_class(alias.name, origin) if origin.is_file() else None
    return None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Top-level statements, and those below a top-level `if`: there `raybench` imports its public names."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If):
            yield from node.body


def _file_of(module: str) -> Path:
    """The file of the raybench module `module`; the package's own for `raybench`."""
    where = ROOT.joinpath(*module.split("."))
    return where / "__init__.py" if where.is_dir() else where.with_suffix(".py")


def _keep(where: dict[str, Any], name: str, value: ast.expr | None) -> None:
    """Store `value` under `name` if it is a literal; other values can't be known without running the code."""
    if value is None:
        return
    try:
        where[name] = ast.literal_eval(value)
    except ValueError:
        where.pop(name, None)


def _literal(node: ast.expr, file: Path) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UserError(
            f"{file}:{node.lineno}: found {ast.unparse(node)!r} in a registration; expected a literal, it is not run"
        ) from error


def tree_of(file: Path) -> ast.Module:
    """The syntax tree of `file`; UserError when it can't be read or is not Python."""
    return _parse(file, _source(file))


def _source(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error


@functools.lru_cache(maxsize=256)
def _parse(file: Path, source: bytes) -> ast.Module:
    try:
        return ast.parse(source, str(file))
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno}: not Python: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise UserError(f"{file}: not Python: {error}") from error


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
