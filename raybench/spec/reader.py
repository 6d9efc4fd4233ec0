"""The only reader of YAML: from a sweep file to a `Sweep`, or to every mistake in it at once."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raybench.catalogue import ROOT
from raybench.errors import nearest
from raybench.spec.mistakes import Mistake, Mistakes, explain, show
from raybench.spec.nodes import Node, merge, parse
from raybench.spec.sweep import ENTRIES, Sweep

RECIPES = (ROOT / "sweeps/recipes", Path(sys.prefix) / "share/raybench/recipes")  # of the checkout, of a wheel


def load_sweep(path: Path | str) -> Sweep:
    """The sweep in the file `path`, with what it extends and its recipe resolved.

    Paths inside a file (weights, storage, data roots, `extends`) are relative to that file.
    Raises Mistakes (a SpecError) that lists everything wrong, each with file and line.
    """
    told = _extended(Path(path), ())
    mistakes: list[Mistake] = []
    root = _with_recipes(told, mistakes)
    try:
        sweep = Sweep.model_validate(root.plain())
    except ValidationError as error:
        found = error.errors(include_url=False)
        mistakes += [_placed(one, root) for one in found if not (mistakes and one["loc"] == ("recipe",))]
    if mistakes:
        raise Mistakes(sorted(mistakes, key=lambda m: (m.file != root.file, str(m.file), m.line or 0)))
    return sweep


def recipe_files(folder: Path) -> dict[str, Path]:
    """Name -> file of every recipe that a file in `folder` can name: its neighbours, those in `recipes/`, ours."""
    found: dict[str, Path] = {}
    for place in (folder / "recipes", *([folder] if folder.name == "recipes" else []), *RECIPES):
        for file in sorted(place.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def _placed(error: Any, root: Node) -> Mistake:
    """A pydantic error at the line that it speaks of."""
    loc = (*error["loc"], *error.get("ctx", {}).get("at", ()))
    node, path = root.find(loc)
    if error["type"] == "missing":
        path = loc
    return Mistake(node.file, node.line, path, explain(error, Sweep))


def _extended(file: Path, chain: tuple[Path, ...]) -> Node:
    """The tree of `file` over those that it extends, its relative paths made absolute."""
    node = parse(file)
    base = node.get("extends")
    node = _anchored(_without(node, "extends"), file.parent)
    if base is None:
        return node
    chain = (*chain, file.resolve())
    target = file.parent / _file_name(base)
    if target.resolve() in chain:
        names = " -> ".join(one.name for one in (*chain, target))
        raise Mistakes([Mistake(base.file, base.line, ("extends",), f"found a circle: {names}")])
    if not target.is_file():
        near = nearest(target.name, (one.name for one in target.parent.glob("*.yaml")))
        told = f"found {base.value!r}, expected a file; there is no {target}.{near}"
        raise Mistakes([Mistake(base.file, base.line, ("extends",), told)])
    return merge(_extended(target, chain), node)


def _file_name(node: Node) -> str:
    if not isinstance(node.value, str) or not node.value:
        raise Mistakes([Mistake(node.file, node.line, ("extends",), "expected the name of one YAML file")])
    return node.value


def _without(node: Node, key: str) -> Node:
    return Node({name: value for name, value in node.value.items() if name != key}, node.file, node.line)


def _anchored(node: Node, folder: Path) -> Node:
    """`node` with the paths it says made absolute, so that they mean the same wherever the command is typed."""

    def anchor(value: Node) -> Node:
        text = value.value
        if not isinstance(text, str) or "://" in text:
            return value
        return Node(str((folder / Path(text).expanduser()).absolute()), value.file, value.line)

    def weights(entry: Node) -> Node:
        told = entry.get("weights")
        if told is None or told.value in ("trained", "pretrained"):
            return entry
        return Node({**entry.value, "weights": anchor(told)}, entry.file, entry.line)

    def models(part: Node) -> Node:
        entries = part.get("models")
        if entries is None:
            return part
        new = _each(entries, weights)
        return Node({**part.value, "models": new}, part.file, part.line)

    node = models(node)
    changed = dict(node.value)
    if "include" in changed:
        changed["include"] = _each(changed["include"], models)
    if "storage" in changed:
        changed["storage"] = anchor(changed["storage"])
    roots = node.get("data_roots")
    if roots is not None and isinstance(roots.value, dict):
        changed["data_roots"] = Node({k: anchor(v) for k, v in roots.value.items()}, roots.file, roots.line)
    return Node(changed, node.file, node.line)


def _each(node: Node, change: Any) -> Node:
    """`change` applied to every item of a list, or to the one value that stands for a list."""
    if isinstance(node.value, tuple):
        return Node(tuple(change(item) for item in node.value), node.file, node.line)
    return change(node)


def _with_recipes(root: Node, mistakes: list[Mistake]) -> Node:
    """`root` with every `recipe:`, its own and its entries', replaced by the whole recipe."""
    if not isinstance(root.value, dict):
        return root
    changed = dict(root.value)
    for axis in ENTRIES:
        if axis in changed:
            changed[axis] = _each(changed[axis], lambda entry: _with_recipe(entry, mistakes))
    if "include" in changed:
        changed["include"] = _each(changed["include"], lambda one: _with_recipes(one, mistakes))
    return _with_recipe(Node(changed, root.file, root.line), mistakes)


def _with_recipe(holder: Node, mistakes: list[Mistake]) -> Node:
    told = holder.get("recipe")
    if told is None:
        return holder
    recipe = _recipe(told, mistakes, ())
    rest = {key: value for key, value in holder.value.items() if key != "recipe"}
    return Node(rest if recipe is None else {**rest, "recipe": recipe}, holder.file, holder.line)


def _recipe(told: Node, mistakes: list[Mistake], chain: tuple[Path, ...]) -> Node | None:
    """The recipe that `told` names or describes, `name` included; None after noting a mistake."""
    base = told.get("extends") if isinstance(told.value, dict) else told
    if base is None:  # written out in place
        return told if told.get("name") else _named(told, "custom")
    if not isinstance(base.value, str):
        words = f"found {show(base.plain())}, expected the name or file of a recipe, or a mapping that extends one"
        mistakes.append(Mistake(base.file, base.line, ("recipe",), words))
        return None
    name, known = base.value, recipe_files(base.file.parent)
    file = known.get(name) or _by_path(base)
    if file is None or file in chain:
        what = f"unknown recipe {name!r}" if file is None else "found a circle"
        known_names = ", ".join(sorted(known)) or "none"
        mistakes.append(
            Mistake(base.file, base.line, ("recipe",), f"{what}.{nearest(name, known)} Known: {known_names}")
        )
        return None
    read = parse(file)
    whole = _recipe(read, mistakes, (*chain, file)) if read.get("extends") else read
    if whole is not None and name not in known:
        name = _marked(file.stem, whole.plain())
    if whole is None or base is told:
        return whole and _named(whole, name)
    changes = _without(told, "extends")
    merged = merge(whole, changes)
    return merged if changes.get("name") else _named(merged, name, changes.plain())


def _by_path(told: Node) -> Path | None:
    """The recipe that `told` names by its file, relative to the file that it stands in."""
    file = (told.file.parent / Path(told.value).expanduser()).resolve()
    return file if file.suffix in {".yaml", ".yml"} and file.is_file() else None


def _named(recipe: Node, name: str, changes: Any = None) -> Node:
    """`recipe` under `name`, plus four digits of what was changed, so that it isn't taken for the one it extends."""
    if changes or name == "custom":
        name = _marked(name, changes or recipe.plain())
    return Node({**recipe.value, "name": Node(name, recipe.file, recipe.line)}, recipe.file, recipe.line)


def _marked(name: str, content: Any) -> str:
    """`name` with four hex digits of what it stands for."""
    return f"{name}~{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:4]}"
