"""Reads a sweep file into a `Sweep`, or reports all mistakes in it at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raybench import registry
from raybench.errors import SpecError, UserError, nearest, nearest_path
from raybench.sweep.mistakes import Mistake, Mistakes, explain, show
from raybench.sweep.nodes import YamlNode, merge, parse
from raybench.sweep.other_files import refuse_other
from raybench.sweep.recipe import Recipe
from raybench.sweep.spread import spread_methods, with_plurals
from raybench.sweep.sweep import ENTRIES, Sweep

AGAINST = {  # what can contradict a setting of a recipe: the end of its path -> the end of the other's
    ("warmup_epochs",): ("epochs",),
    ("nesterov",): ("momentum",),
    ("early_stop", "grace_period"): ("finetune", "epochs"),
}
SHIPPED = Path(str(files("raybench") / "shipped"))  # the sweeps and recipes that come with raybench


def load_sweep(path: Path | str) -> Sweep:
    """The sweep in the file `path`, with `extends` and recipes resolved.

    Args:
        path: a YAML file, or the bare name of a sweep that comes with raybench (``quickstart``). Paths inside a file
            (weights, storage, data roots, `extends`) are relative to that file.

    Returns:
        The sweep, with every default filled in.

    Raises:
        Mistakes: (a UserError) lists every mistake with file and line.
        UserError: there is neither such a file nor such a shipped sweep.

    Example:
        >>> import raybench
        >>> raybench.load_sweep("quickstart").speedups
        (2.0, 4.0)
    """
    tree = _extended(_file_of(Path(path)), ())
    refuse_other(tree, Sweep.model_fields)
    mistakes: list[Mistake] = []
    root = _with_recipes(with_plurals(spread_methods(tree)), mistakes)
    try:
        sweep = Sweep.model_validate(root.plain())
    except ValidationError as error:
        found = error.errors(include_url=False)
        known = [one for one in found if not (mistakes and one["loc"] == ("recipe",))]
        mistakes += [each for one in known for each in _placed(one, root)]
        mistakes += [one for one in _contradictions(root) if one not in mistakes]
    if mistakes:
        raise Mistakes(sorted(mistakes, key=lambda m: (m.file != root.file, str(m.file), m.line or 0)))
    return sweep


def _file_of(path: Path) -> Path:
    """`path`, or the sweep of that name that comes with raybench, if there is no such file."""
    shipped = SHIPPED / f"{path}.yaml"
    if path.is_dir():
        storage = "; `raybench leaderboard` takes the storage of a run" if (path / "results").is_dir() else ""
        raise SpecError(f"{path}: found a folder, expected a sweep file (YAML){storage}")
    if path.exists():
        return path
    near = nearest_path(path, ".y*ml")
    if path.name != str(path) or path.suffix:
        raise SpecError(f"{path}: found no such file{near and f'.{near}'}")
    if shipped.is_file():
        return shipped
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    known = f"{near or nearest(str(path), names)} Shipped: {', '.join(names)}"
    raise UserError(f"{path}: found no such file, nor a shipped sweep of that name.{known}")


def recipe_files(folder: Path) -> dict[str, Path]:
    """Name -> file of every recipe known to a sweep in `folder`: those in its `recipes/`, then raybench's own."""
    found: dict[str, Path] = {}
    for place in (folder / "recipes", *([folder] if folder.name == "recipes" else []), SHIPPED / "recipes"):
        for file in sorted(place.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def _placed(error: Any, root: YamlNode) -> Iterator[Mistake]:
    """A pydantic error as mistakes with their file and line: one, or all that a validator found."""
    context = error.get("ctx", {})
    loc = (*error["loc"], *context.get("at", ()))
    node, path = root.find(loc)
    if error["type"] == "missing":
        path = loc
    at = loc if context.get("at") else ()
    yield _both_named(Mistake(node.file, node.line, path, explain(error, Sweep)), root, at, root.file)
    for one in context.get("more", ()):
        loc = (*error["loc"], *one["at"])
        node, path = root.find(loc)
        yield _both_named(Mistake(node.file, node.line, path, one["message"]), root, loc, root.file)


def _both_named(mistake: Mistake, tree: YamlNode, loc: tuple[str | int, ...], own: Path) -> Mistake:
    """A contradiction, at `loc` in `tree`, of settings that stand in different files: with both places; others as is.

    Where the sweep's `own` file, or an option, has the other setting, the mistake is there.
    """
    for end, against in AGAINST.items():
        other, found = tree.find((*loc[: -len(end)], *against))
        if loc[-len(end) :] != end or found[-len(against) :] != against or other.file == mistake.file:
            continue
        if other.file == own:
            path = (*mistake.path[: -len(end)], *against)
            return Mistake(other.file, other.line, path, f"found {show(other.value)}, but {mistake}")
        return replace(mistake, message=f"{mistake.message} ({against[-1]}: {other.file}:{other.line})")
    return mistake


def _contradictions(root: YamlNode) -> Iterator[Mistake]:
    """What can't work in the recipes, for a sweep whose other mistakes keep it from being checked as a whole."""
    holders = [entry for axis in ENTRIES if (node := root.get(axis)) for entry in node.items]
    several = root.get("recipes")
    places = several.items if several else tuple(filter(None, (one.get("recipe") for one in (root, *holders))))
    for node in places:
        with suppress(ValidationError):
            for message, at in Recipe.model_validate(node.plain()).contradictions():
                wrong, _ = node.find(at)
                yield _both_named(Mistake(wrong.file, wrong.line, ("recipe", *at), message), node, at, root.file)


def _extended(file: Path, chain: tuple[Path, ...]) -> YamlNode:
    """The tree of `file` merged over the files that it extends, with absolute paths."""
    node = parse(file)
    base = node.get("extends")
    node = _anchored(_without(node, "extends"), file.parent)
    if base is None:
        return node
    chain = (*chain, file.resolve())
    target = file.parent / expanded(base.replaced(_file_name(base)), file.parent)
    if target.resolve() in chain:
        names = " -> ".join(one.name for one in (*chain, target))
        raise Mistakes([Mistake(base.file, base.line, ("extends",), f"found a cycle: {names}")])
    if not target.is_file():
        near = nearest(target.name, (one.name for one in target.parent.glob("*.yaml")))
        message = f"found {base.value!r}, expected a file; there is no {target}.{near}"
        raise Mistakes([Mistake(base.file, base.line, ("extends",), message)])
    return merge(_extended(target, chain), node)


def _file_name(node: YamlNode) -> str:
    if not isinstance(node.value, str) or not node.value:
        raise Mistakes([Mistake(node.file, node.line, ("extends",), "expected the name of one YAML file")])
    return node.value


def _without(node: YamlNode, key: str) -> YamlNode:
    return node.replaced({name: value for name, value in node.fields.items() if name != key})


def _anchored(tree: YamlNode, folder: Path) -> YamlNode:
    """The whole file `tree` with the paths in it made absolute; relative ones are relative to `folder`."""
    anchors = _Anchors(folder)
    tree = anchors.models(tree)
    changed = dict(tree.fields)
    if "include" in changed:
        changed["include"] = _each(changed["include"], anchors.models)
    if "storage" in changed:
        changed["storage"] = anchors.path(changed["storage"])
    if "base" in changed:
        changed["base"] = anchors.base(changed["base"])
    roots = tree.get("data_roots")
    if roots is not None and isinstance(roots.value, dict):
        changed["data_roots"] = roots.replaced({key: anchors.path(root) for key, root in roots.fields.items()})
    if anchors.mistakes:
        raise Mistakes(anchors.mistakes)
    return tree.replaced(changed)


class _Anchors:
    """Makes paths absolute; those that can't be are collected as `mistakes`."""

    def __init__(self, folder: Path) -> None:
        """`folder`: to which relative paths are relative."""
        self.mistakes: list[Mistake] = []
        self._folder = folder

    def path(self, node: YamlNode) -> YamlNode:
        """A path, or a URL, which stays as it is."""
        if not isinstance(node.value, str):
            return node
        try:
            text = expanded(node, self._folder)
        except Mistakes as error:
            self.mistakes.extend(error.mistakes)
            return node
        return node.replaced(text if "://" in text else str((self._folder / text).absolute()))

    def models(self, part: YamlNode) -> YamlNode:
        """A part of a sweep, whose models may have weights in files."""
        entries = part.get("models")
        return part if entries is None else part.replaced({**part.fields, "models": _each(entries, self._weights)})

    def base(self, node: YamlNode) -> YamlNode:
        """The key `base`, whose networks may start from weights in a file."""
        source = node.get("from")
        if source is None or source.value in registry.dataset.entries():
            return node
        return node.replaced({**node.fields, "from": self.path(source)})

    def _weights(self, entry: YamlNode) -> YamlNode:
        weights = entry.get("weights")
        if weights is None or weights.value in ("trained", "pretrained"):
            return entry
        return entry.replaced({**entry.fields, "weights": self.path(weights)})


def expanded(node: YamlNode, folder: Path) -> str:
    """The path or URL in `node` with `~` and the environment's `$VAR` and `${VAR}` replaced, on this machine.

    A path that exists as it is written is left alone. Raises Mistakes for a variable or user that there isn't.
    """
    text = str(node.value)
    if not _VARIABLE.search(text) and not text.startswith("~"):
        return text
    if "\0" not in text and (folder / text).exists():
        return text
    names = dict.fromkeys(found[1] or found[2] for found in _VARIABLE.finditer(text))
    wrong = [f"found ${name} in {text!r}, {why}" for name in names if (why := _unfit(name))]
    if wrong:
        raise Mistakes([Mistake(node.file, node.line, "", message) for message in wrong])
    text = _VARIABLE.sub(lambda found: os.environ[found[1] or found[2]], text)
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise Mistakes([Mistake(node.file, node.line, "", f"found {text!r}, whose user isn't known here")]) from error


def _unfit(variable: str) -> str:
    """Why a variable of the environment can't stand in a path; empty if it can."""
    if _SECRET.search(variable):  # a sweep of others may send it to a server of theirs
        return "by its name a secret, which paths and addresses show; expected a variable of another name"
    return "" if variable in os.environ else f"which isn't set.{nearest(variable, os.environ)}"


_SECRET = re.compile(
    r"(?:^|_)(?:SECRETS?|TOKENS?|PASS(?:WORD|WD|PHRASE)?|CREDENTIALS?|(?:API)?KEYS?)(?:_|$)", re.IGNORECASE
)
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def _each(node: YamlNode, change: Callable[[YamlNode], YamlNode]) -> YamlNode:
    """`node` with `change` applied to every item of a list, or to a single value that stands for a list."""
    if isinstance(node.value, tuple):
        return node.replaced(tuple(change(item) for item in node.value))
    return change(node)


def _with_recipes(root: YamlNode, mistakes: list[Mistake], first: bool = True) -> YamlNode:
    """`root` with every `recipe:`, its own and its entries', replaced by the resolved recipe.

    `first`: of several recipes the first one becomes its `recipe`, as a sweep has one.
    """
    if not isinstance(root.value, dict):
        return root
    changed = dict(root.value)
    for axis in ENTRIES:
        if axis in changed:
            changed[axis] = _each(changed[axis], lambda entry: _with_recipe(entry, mistakes))
    if "include" in changed:
        changed["include"] = _each(changed["include"], lambda one: _with_recipes(one, mistakes, first=False))
    return _with_several(_with_recipe(root.replaced(changed), mistakes), mistakes, first)


def _with_several(holder: YamlNode, mistakes: list[Mistake], first: bool) -> YamlNode:
    """`holder` with every recipe of `recipes:` replaced by the resolved one, and the `first` of them as `recipe`."""
    several = holder.get("recipes")
    if several is None or not isinstance(several.value, tuple):
        return holder
    found: tuple[YamlNode, ...] = ()
    for place, node in enumerate(several.value):
        one = _recipe(node, mistakes, ())
        if one is not None and any(one.plain() == other.plain() for other in found):
            message = f"found {one.plain()['name']!r} twice, expected each value once"
            mistakes.append(Mistake(node.file, node.line, ("recipes", place), message))
        elif one is not None:
            found += (one,)
    changed = {**holder.fields, "recipes": several.replaced(found)}
    return holder.replaced(changed | {"recipe": found[0]} if found and first else changed)


def _with_recipe(holder: YamlNode, mistakes: list[Mistake]) -> YamlNode:
    node = holder.get("recipe")
    if node is None:
        return holder
    recipe = _recipe(node, mistakes, ())
    rest = {key: value for key, value in holder.fields.items() if key != "recipe"}
    return holder.replaced(rest if recipe is None else {**rest, "recipe": recipe})


def _recipe(node: YamlNode, mistakes: list[Mistake], chain: tuple[Path, ...]) -> YamlNode | None:
    """The whole recipe that `node` names or describes, with its name; None after adding to `mistakes`."""
    base = node.get("extends") if isinstance(node.value, dict) else node
    if base is None:  # the whole recipe is in the sweep file
        return node if node.get("name") else _named(node, "custom")
    if not isinstance(base.value, str):
        message = f"found {show(base.plain())}, expected the name or file of a recipe, or a mapping that extends one"
        mistakes.append(Mistake(base.file, base.line, ("recipe",), message))
        return None
    name, known = base.value, recipe_files(base.file.parent)
    file = known.get(name) or _by_path(expanded(base, base.file.parent), base.file.parent)
    if file is None or file in chain:
        problem = f"unknown recipe {name!r}" if file is None else "found a cycle"
        message = f"{problem}.{nearest(name, known)} Known: {', '.join(sorted(known)) or 'none'}"
        mistakes.append(Mistake(base.file, base.line, ("recipe",), message))
        return None
    read = parse(file)
    whole = _recipe(read, mistakes, (*chain, file)) if read.get("extends") else read
    if whole is not None and name not in known:
        name = _marked(file.stem, whole.plain())
    if whole is None or base is node:
        return whole and _named(whole, name)
    changes = _without(node, "extends")
    merged = merge(whole, changes)
    return merged if changes.get("name") else _named(merged, name, changes.plain())


def _by_path(name: str, folder: Path) -> Path | None:
    """The recipe file at the path `name`, relative to `folder`; None if there is none."""
    file = (folder / name).resolve()
    return file if file.suffix in {".yaml", ".yml"} and file.is_file() else None


def _named(recipe: YamlNode, name: str, changes: Any = None) -> YamlNode:
    """`recipe` with `name`; with changes, their hash is appended, so that it differs from the recipe it extends."""
    if changes or name == "custom":
        name = _marked(name, changes or recipe.plain())
    return recipe.replaced({**recipe.fields, "name": recipe.replaced(name)})


def _marked(name: str, content: Any) -> str:
    """`name` with four hex digits of the hash of `content`."""
    return f"{name}~{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:4]}"
