"""Registries of methods, models, datasets and tasks: public name -> code, without importing the code.

A method, model or dataset is one decorated class or function. `raybench.catalogue` reads the decorators,
class attributes and dataclass fields from the syntax tree, so `raybench plan` has every name with its
facts and default parameters and never imports torch. Only `Registry.load` imports.
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

from raybench.catalogue import NOUNS, ROOT, Entry, read_entries, tree_of
from raybench.errors import UserError, nearest_path, unknown

T = TypeVar("T")


class Registry:
    """All names of one kind, from the files of a package, entry points of other packages, and plug-in files.

    A registry is also the decorator that registers a class or function under a name.

    Args:
        kind: what the names stand for: ``"importance"``, ``"regularizer"``, ``"token"``, ``"model"``, ``"dataset"``, or
            ``"task"``.
        package: dotted name of the package whose files are searched.

    Example:
        >>> from raybench import registry
        >>> "magnitude-l2" in registry.importance.entries()
        True
        >>> registry.importance.entry("magnitude-l2").facts["needs"]
        'weights'
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package, self.noun = kind, package, NOUNS.get(kind, kind)
        self._plugins: list[Path] = []
        self._entries: Mapping[str, Entry] | None = None

    def __call__(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Decorator that registers a class or function under its public name. It returns its target unchanged.

        Args:
            name: the name that people type. It and all facts must be literals: they are read, not executed.
            **facts: static facts, e.g. ``paper="..."``. `version` (default 1) is part of a trial's identity:
                raise it when the code gives other results.

        Returns:
            The decorator.

        Example:
            >>> from raybench.registry import importance
            >>> @importance("my-criterion", version=2)
            ... class MyCriterion:
            ...     needs = "weights"
        """
        return lambda target: target

    def add_file(self, path: Path) -> None:
        """Search the plug-in file `path` too.

        Args:
            path: a Python file. It is read when names are next looked up.
        """
        if path not in self._plugins:
            self._plugins.append(path)
            self._entries = None

    def entries(self) -> Mapping[str, Entry]:
        """Every registered name.

        Returns:
            Name -> entry, sorted by name. An entry has the source file, facts and default parameters.

        Raises:
            UserError: a name is defined twice, or a file can't be parsed.

        Example:
            >>> from raybench import registry
            >>> list(registry.regularizer.entries())
            ['bn-group-lasso', 'bn-scale', 'group-lasso', 'group-norm', 'growing-reg']
        """
        if self._entries is None:
            found: dict[str, Entry] = {}
            for entry in self._scan():
                if entry.name in found and not _same(found[entry.name], entry):
                    raise UserError(
                        f"{self.noun} {entry.name!r} is defined twice: {_where(found[entry.name])} and {_where(entry)}"
                    )
                found[entry.name] = entry
            self._entries = MappingProxyType(dict(sorted(found.items())))
        return self._entries

    def entry(self, name: str) -> Entry:
        """The entry of one name.

        Args:
            name: a registered name.

        Returns:
            Its entry.

        Raises:
            UserError: there is no such name; the message has the nearest one.

        Example:
            >>> from raybench import registry
            >>> registry.model.entry("cifar-resnet56").facts["norm"]
            'batch'
        """
        return _named(self.noun, name, self.entries())

    def load(self, name: str) -> Any:
        """Import the code registered under `name`.

        Args:
            name: a registered name.

        Returns:
            The class or function.

        Raises:
            UserError: there is no such name.

        Example:
            >>> from raybench import registry
            >>> registry.importance.load("magnitude-l2").__name__
            'MagnitudeL2'
        """
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
    # Reads every installed distribution, which takes 20 ms: so once for all kinds, not once a group.
    return entry_points()  # type: ignore[return-value]  # SelectableGroups up to 3.11: the same `select`


def _named(noun: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    if name not in entries:
        raise UserError(unknown(noun, name, entries))
    return entries[name]


def _same(one: Entry, other: Entry) -> bool:
    return (one.file, one.attribute) == (other.file, other.attribute)


def _where(entry: Entry) -> str:
    return f"{entry.file} ({entry.attribute})"


def _import_file(file: Path) -> ModuleType:
    """Import a plug-in by path, once per content.

    Python's own cache of compiled files isn't asked: it takes a file of the same size and second for the same one.
    """
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    name = f"raybench_plugin_{file.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            exec(compile(content, file, "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[name]  # or the next call would return the half-imported module
            raise
    return sys.modules[name]


class Either:
    """The names of several registries, as one: those that may stand in one place.

    Args:
        noun: what messages call one of the names.
        kinds: names of registries in this module.

    Example:
        >>> from raybench import registry
        >>> registry.CHOICE.entry("resrep").kind, registry.CHOICE.entry("lamp").kind
        ('selection', 'importance')
    """

    def __init__(self, noun: str, *kinds: str) -> None:
        self.noun, self._kinds = noun, kinds
        self._known: tuple[list[Mapping[str, Entry]], Mapping[str, Entry]] = ([], {})  # parts, and all of them as one

    def entries(self) -> Mapping[str, Entry]:
        """Every name of all of them.

        Returns:
            Name -> entry, sorted by name.

        Raises:
            UserError: two of them define the same name.
        """
        parts = [globals()[kind].entries() for kind in self._kinds]
        if not self._known[0] or any(new is not old for new, old in zip(parts, self._known[0], strict=True)):
            self._known = parts, self._merged(parts)
        return self._known[1]

    @staticmethod
    def _merged(parts: list[Mapping[str, Entry]]) -> Mapping[str, Entry]:
        """The names of all `parts`; UserError where two have the same."""
        found: dict[str, Entry] = {}
        for entry in (one for part in parts for one in part.values()):
            if entry.name in found:
                other = found[entry.name]
                raise UserError(
                    f"{entry.name!r} is defined twice: {other.noun} in {_where(other)}, {entry.noun} in {_where(entry)}"
                )
            found[entry.name] = entry
        return MappingProxyType(dict(sorted(found.items())))

    def entry(self, name: str) -> Entry:
        """The entry of one name.

        Args:
            name: a registered name.

        Returns:
            Its entry.

        Raises:
            UserError: None of them has it; the message has the nearest one.
        """
        return _named(self.noun, name, self.entries())

    @property
    def kind(self) -> str:
        """The kind of the first one: the key under which a trial has any of them."""
        return self._kinds[0]


importance = Registry("importance", "raybench.methods.importance")
selection = Registry("selection", "raybench.methods.selections")
regularizer = Registry("regularizer", "raybench.methods.regularizers")
token = Registry("token", "raybench.methods.tokens")
model = Registry("model", "raybench.models")
dataset = Registry("dataset", "raybench.datasets")
task = Registry("task", "raybench.tasks")

KINDS = (importance, selection, regularizer, token, model, dataset, task)
# What stands first in a method: which channels, or tokens, stay.
CHOICE = Either("method", "importance", "selection", "token")


def add_plugin(path: Path | str) -> None:
    """Search a plug-in file for names of every kind.

    Args:
        path: a Python file that registers at least one method, model, dataset or task.

    Raises:
        UserError: there is no such file, it is not Python, or it registers nothing.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from raybench import registry
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name, "my_method.py")
        >>> _ = file.write_text('@importance("my-method")\\nclass MyMethod: ...')
        >>> registry.add_plugin(file)
        >>> registry.importance.entry("my-method").attribute
        'MyMethod'
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        near = nearest_path(Path(path).expanduser())
        expected = "a Python file that registers a method, model or dataset"
        raise UserError(f"--plugin {path}: found no file; expected {expected}{near and f'.{near}'}")
    tree_of(file)
    if not any(any(True for _ in read_entries(registry.kind, file, None)) for registry in KINDS):
        raise UserError(
            f'--plugin {path}: nothing is registered in it; expected e.g. @registry.importance("my-name") above a class'
        )
    for registry in KINDS:
        registry.add_file(file)
