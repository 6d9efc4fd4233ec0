"""Names people type -> the code behind them, found by reading source files, not by importing them.

A method, model or dataset is one decorated class or function. The catalogue reads the decorators,
class attributes and dataclass fields off the syntax tree, so `raybench plan` knows every name, its
needs and its default parameters without importing torch. Only `load` imports.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from raybench.errors import UserError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One registered name: where its code lies and what is known of it without running it."""

    kind: str
    name: str
    file: Path
    attribute: str
    summary: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    module: str | None = None  # dotted name for packaged code, None for a plug-in file

    @property
    def source(self) -> str | None:
        """SHA-256 of a plug-in's file, part of the trial's identity; None for packaged code, which has `version`."""
        return None if self.module else hashlib.sha256(self.file.read_bytes()).hexdigest()


class Registry:
    """Every name of one kind: the files of a package, entry points of other packages, and plug-in files."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._plugins: list[Path] = []
        self._entries: Mapping[str, Entry] | None = None

    def __call__(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Decorator that gives a class or function its public name. Facts must be literals: they are read, not run."""
        return lambda target: target

    def add_file(self, path: Path) -> None:
        """Also look for names in the plug-in file `path`."""
        if path not in self._plugins:
            self._plugins.append(path)
            self._entries = None

    def entries(self) -> Mapping[str, Entry]:
        """Name -> entry, sorted by name. Raises UserError when two files claim one name."""
        if self._entries is None:
            found: dict[str, Entry] = {}
            for entry in self._scan():
                if entry.name in found and found[entry.name].file != entry.file:
                    raise UserError(
                        f"{self.kind} {entry.name!r} is defined twice: {found[entry.name].file} and {entry.file}"
                    )
                found[entry.name] = entry
            self._entries = MappingProxyType(dict(sorted(found.items())))
        return self._entries

    def entry(self, name: str) -> Entry:
        """The entry called `name`; UserError with the nearest name when there is none."""
        if name not in self.entries():
            raise UserError(unknown(self.kind, name, self.entries()))
        return self.entries()[name]

    def load(self, name: str) -> Any:
        """Import the code behind `name` and return the class or function."""
        entry = self.entry(name)
        module = importlib.import_module(entry.module) if entry.module else _import_file(entry.file)
        return getattr(module, entry.attribute)

    def _scan(self) -> Iterator[Entry]:
        root = Path(__file__).parent.parent / self.package.replace(".", "/")
        for file in sorted(root.glob("*.py")):
            yield from _read(self.kind, file, f"{self.package}.{file.stem}")
        for point in entry_points(group=f"raybench.{self.kind}"):
            module, _, attribute = point.value.partition(":")
            spec = importlib.util.find_spec(module)
            if spec and spec.origin:
                entries = _read(self.kind, Path(spec.origin), module)
                yield from (e for e in entries if not attribute or e.attribute == attribute)
        for file in self._plugins:
            yield from _read(self.kind, file, None)


def _read(kind: str, file: Path, module: str | None) -> Iterator[Entry]:
    """Entries that `file` defines with ``@<kind>("name", ...)``."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError) as error:
        raise UserError(f"can't read {kind} definitions from {file}: {error}") from error
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and _last_name(mark.func) == kind and mark.args):
                continue
            facts, params = _class_data(node)
            facts |= {k.arg: ast.literal_eval(k.value) for k in mark.keywords if k.arg}
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            yield Entry(kind, ast.literal_eval(mark.args[0]), file, node.name, summary, facts, params, module)


def _class_data(node: ast.ClassDef | ast.FunctionDef) -> tuple[dict[str, Any], dict[str, Any]]:
    """(facts, params): plain literal class attributes, and annotated dataclass fields with their defaults."""
    facts: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for item in node.body if isinstance(node, ast.ClassDef) else []:
        try:
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                facts[item.targets[0].id] = ast.literal_eval(item.value)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                params[item.target.id] = ast.literal_eval(item.value) if item.value else None
        except ValueError:
            continue  # not a literal: code's own business
    return facts, params


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _import_file(file: Path) -> ModuleType:
    """Import a plug-in by path, once per content."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    name = f"raybench_plugin_{file.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


importance = Registry("importance", "raybench.methods.importance")
regularizer = Registry("regularizer", "raybench.methods.regularizers")
model = Registry("model", "raybench.models")
dataset = Registry("dataset", "raybench.datasets")
task = Registry("task", "raybench.tasks")
