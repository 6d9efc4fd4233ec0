"""Names people type -> the code behind them, found by reading source files, not by importing them.

A method, model or dataset is one decorated class or function. The catalogue reads the decorators,
class attributes and dataclass fields off the syntax tree, so `raybench plan` knows every name, its
needs and its default parameters without importing torch. Only `load` imports.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from raybench.catalogue import ROOT, Entry, read_entries, tree_of
from raybench.errors import UserError, unknown

T = TypeVar("T")


class Registry:
    """Every name of one kind: the files of a package, entry points of other packages, and plug-in files."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._plugins: list[Path] = []
        self._entries: Mapping[str, Entry] | None = None

    def __call__(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Decorator that gives a class or function its public name. Facts must be literals: they are read, not run.

        `version` (1 unless said) is part of a trial's identity: raise it when what the code gives changes.
        """
        return lambda target: target

    def add_file(self, path: Path) -> None:
        """Also look for names in the plug-in file `path`."""
        if path not in self._plugins:
            self._plugins.append(path)
            self._entries = None

    def remove_file(self, path: Path) -> None:
        """Forget the plug-in file `path`."""
        self._plugins.remove(path)
        self._entries = None

    def entries(self) -> Mapping[str, Entry]:
        """Name -> entry, sorted by name. Raises UserError when a name is claimed twice."""
        if self._entries is None:
            found: dict[str, Entry] = {}
            for entry in self._scan():
                if entry.name in found and not _same(found[entry.name], entry):
                    raise UserError(
                        f"{self.kind} {entry.name!r} is defined twice: {_where(found[entry.name])} and {_where(entry)}"
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
        for file in sorted((ROOT / self.package.replace(".", "/")).glob("*.py")):
            yield from read_entries(self.kind, file, f"{self.package}.{file.stem}")
        for point in _entry_points().select(group=f"raybench.{self.kind}"):
            module, _, attribute = point.value.partition(":")
            spec = importlib.util.find_spec(module)
            if spec and spec.origin:
                entries = read_entries(self.kind, Path(spec.origin), module)
                yield from (e for e in entries if not attribute or e.attribute == attribute)
        for file in self._plugins:
            yield from read_entries(self.kind, file, None)


@functools.cache
def _entry_points() -> EntryPoints:
    return entry_points()  # reads every installed distribution: 20 ms, so once


def _same(one: Entry, other: Entry) -> bool:
    return (one.file, one.attribute) == (other.file, other.attribute)


def _where(entry: Entry) -> str:
    return f"{entry.file} ({entry.attribute})"


def _import_file(file: Path) -> ModuleType:
    """Import a plug-in by path, once per content."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    name = f"raybench_plugin_{file.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]  # a half-imported plug-in must not be taken for a whole one
            raise
    return sys.modules[name]


importance = Registry("importance", "raybench.methods.importance")
regularizer = Registry("regularizer", "raybench.methods.regularizers")
model = Registry("model", "raybench.models")
dataset = Registry("dataset", "raybench.datasets")
task = Registry("task", "raybench.tasks")

KINDS = (importance, regularizer, model, dataset, task)


def add_plugin(path: Path | str) -> None:
    """Look for names of every kind in the file `path` too; UserError when it is not a readable Python file."""
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise UserError(
            f"--plugin {path}: found no file; expected a Python file that registers a method, model or dataset"
        )
    tree_of(file)
    if not any(any(True for _ in read_entries(registry.kind, file, None)) for registry in KINDS):
        raise UserError(
            f'--plugin {path}: nothing is registered in it; expected e.g. @registry.importance("my-name") above a class'
        )
    for registry in KINDS:
        registry.add_file(file)
