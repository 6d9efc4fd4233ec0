"""What timm's networks take as parameters, read from timm's source files, so that nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from raybench.errors import nearest

FACTORY = "_factory"  # the module of timm.create_model, whose own arguments count, too
FROM_DATA = ("num_classes", "in_chans")  # that raybench passes
_WORD = re.compile(r"[A-Za-z_]\w*")
_IMPORTED = re.compile(r"^\s*from (?:timm\.models)?\.(\w+) import", re.MULTILINE)
_CLASS = re.compile(r"(?:build_model_with_cfg\(|model_cls\s*=)([^,\n]*\n?[^,\n]*)")  # what is built


def strange_of_timm(name: str, given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(message, parameter) for those of `given` that timm's network `name` doesn't take, as far as its source tells.

    timm passes parameters through functions and configurations to a class. A word that stands nowhere in the files
    that take part is none of them; any other passes, and timm says for itself whether it takes it.
    """
    files = _files(name)
    for one in given if files else ():
        if one in FROM_DATA:
            yield "found a value, expected none: it is that of the dataset", one
        elif not any(one in _words(file) for file in files):
            yield unknown_to_timm(name, one), one


def unknown_to_timm(name: str, parameter: str) -> str:
    """The message about a parameter that timm's network `name` doesn't take, with those that it does."""
    known = sorted(_taken(name) - set(FROM_DATA))
    listed = f" Known: {', '.join(known)}" if known else ""
    return f"unknown parameter of model 'timm:{name}'.{nearest(parameter, known)}{listed}"


@cache
def _files(name: str) -> tuple[Path, ...]:
    """The file that defines timm's `name`, first, and those of timm.models that it imports; none if there is none."""
    found = importlib.util.find_spec("timm")  # of the package alone: it is not imported
    places = list(found.submodule_search_locations or ()) if found else []
    folder = Path(places[0], "models") if places else Path()
    start = f"\ndef {name.partition('.')[0]}("
    own = next((file for file in sorted(folder.glob("*.py")) if places and start in file.read_text("utf-8")), None)
    if own is None:
        return ()
    files, left = {own: None}, [own, folder / f"{FACTORY}.py"]
    while left:
        file = left.pop()
        files[file] = None
        near = (folder / f"{module}.py" for module in _IMPORTED.findall(file.read_text("utf-8")))
        left += [one for one in near if one.is_file() and one not in files]
    return tuple(files)


@cache
def _words(file: Path) -> frozenset[str]:
    return frozenset(_WORD.findall(file.read_text("utf-8")))


@cache
def _taken(name: str) -> frozenset[str]:
    """Arguments of the classes that the file of `name` builds; a class may be another file's."""
    files = _files(name)
    if not files:
        return frozenset()
    built = {word for part in _CLASS.findall(files[0].read_text("utf-8")) for word in _WORD.findall(part)}
    found: set[str] = set()
    for file in files:
        if any(f"class {one}(" in file.read_text("utf-8") for one in built):
            kinds = (node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.ClassDef))
            found.update(arg for kind in kinds if kind.name in built for arg in _arguments(kind))
    return frozenset(found)


def _arguments(kind: ast.ClassDef) -> Iterator[str]:
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            yield from (one.arg for one in (*node.args.args[1:], *node.args.kwonlyargs))
