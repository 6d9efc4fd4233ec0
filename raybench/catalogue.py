"""Reads registrations from a source file's syntax tree: names, facts and default parameters. Imports nothing."""

from __future__ import annotations

import ast
import functools
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybench.errors import UserError, nearest
from raybench.image_size import EXPECTED, canonical, read_size

ROOT = Path(__file__).parent.parent  # the folder that holds the package `raybench`
TRAINING = "training"  # what a trained selection needs
TUNING = "fine-tuning"  # what a token reducer with weights of its own needs
NO_DATA = ("nothing", "weights", TRAINING, TUNING)  # what a method may need that isn't computed from images
NOUNS = {  # kinds of registered names that are parts of a method -> what people call them
    "importance": "criterion", "selection": "trained selection", "regularizer": "regularizer", "token": "token reducer",
}  # fmt: skip
EVIDENCE = ("gradients", "sample-gradients", "activations")  # what is, and may be needed together
METHOD_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
FACTS = {  # the values of a method's class attributes; `needs` may be several of EVIDENCE, too
    "needs": (*NO_DATA, *EVIDENCE),  # "training" by the base class of trained selections
    "labels": ("true", "sampled"),
    "reduce": ("mean", "sum", "max", "first"),
    "normalize": ("mean", "max", "sum", "lamp", "none"),
    "place": ("block", "mlp"),  # of token reducers
}
RESERVED = {
    "needs", "labels", "version", "requires", "min_images", "paper", "neighbours", "reconstructs", "refits_bias",
}  # fmt: skip
REPAIR, TRAIN, SCRATCH = "repair", "train", "scratch"
SMALL = "small"  # value of the parameter `train` of the baseline that is a smaller network
UNTRAINED = "none"  # value of a token reducer's parameter `train`
OPTIONS = {  # of every criterion: its words, the default first, which is left out of params
    REPAIR: ("none", "ridge"),  # a refit after the cut
    TRAIN: ("finetune", SCRATCH),  # the weights that are left, or new ones by the base stage's recipe
}
REQUIRED = "<required>"  # default of a parameter that has none
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}
TYPES |= {"ImageSize": EXPECTED}


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
    kinds: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # name -> the words of its Literal, or its types

    @property
    def noun(self) -> str:
        """What messages and lists call a name of its kind."""
        return NOUNS.get(self.kind, self.kind)

    @property
    def source(self) -> str | None:
        """SHA-256 of the file, part of a trial's identity; None for raybench's own code, identified by `version`."""
        ours = (self.module or "").startswith("raybench.")
        return None if ours else hashlib.sha256(self.file.read_bytes()).hexdigest()

    @property
    def options(self) -> tuple[str, ...]:
        """What the entry takes among its parameters without declaring it."""
        return tuple(name for name in OPTIONS if self.kind == "importance" and name not in self.params)

    def chosen(self, option: str, params: Mapping[str, Any]) -> Any:
        """The word that `params` have for one of OPTIONS; its default where the entry declares that name itself."""
        return params.get(option, OPTIONS[option][0]) if option in self.options else OPTIONS[option][0]

    def misfit(self, name: str, value: Any) -> str | None:
        """What is wrong with `value` for the parameter `name`, which the entry has; None if nothing is known to be.

        Known are the default's type, the annotation (``Literal["out", "all"]``, ``int | None``), and the fact `limits`:
        ``limits = {"strength": (0, None)}`` are the least and the largest value.
        """
        if name in self.options:
            words = OPTIONS[name]
            return None if value in words else f"found {value!r}, expected {' or '.join(map(repr, words))}"
        default, kinds = self.params[name], self.kinds.get(name, ())
        words = tuple(kind for kind in kinds if not isinstance(kind, _Type))
        types = tuple(kind for kind in kinds if isinstance(kind, _Type))
        if default not in (None, REQUIRED):
            types = types or (() if words else (_Type(type(default).__name__),))
        if words or types:
            fits = any(type(value) is type(word) and value == word for word in words)
            if not fits and not any(_is(value, kind) for kind in types):
                known = [repr(word) for word in words] + [TYPES.get(kind, kind) for kind in types]
                near = nearest(value, [word for word in words if isinstance(word, str)]) if words and value else ""
                return f"found {value!r}, expected {' or '.join(known)}.{near}".removesuffix(".")
        least, largest = self.facts.get("limits", {}).get(name, (None, None))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                return f"found {value!r}, expected a finite number"
            if (least is not None and value < least) or (largest is not None and value > largest):
                return f"found {value!r}, expected {_span(least, largest)}"
        return None

    def canonical(self, name: str, value: Any) -> Any:
        """The value of the parameter `name` in the one spelling that is hashed and passed to the code."""
        if isinstance(self.params.get(name), float):
            return float(value)
        return canonical(value) if "ImageSize" in self.kinds.get(name, ()) else value


class _Type(str):
    """The name of a type in an annotation, as against a word of a Literal."""


def _is(value: Any, kind: str) -> bool:
    """Whether `value` has a type; an int counts as a float, True not as an int."""
    if kind == "ImageSize":
        return read_size(value) is not None
    name = "None" if value is None else type(value).__name__
    return name == kind or (kind == "float" and name == "int")


def _span(least: float | None, largest: float | None) -> str:
    if least is None or largest is None:
        return f"at least {least}" if largest is None else f"at most {largest}"
    return f"{least} to {largest}"


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
            facts, params, kinds = _data(node, file)
            name = _literal(mark.args[0], file)
            facts |= {k.arg: _literal(k.value, file) for k in mark.keywords if k.arg}
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            fixed = facts.get("args", {})
            params = {key: default for key, default in params.items() if key not in fixed}
            where = f"{file}:{node.lineno}: {node.name}"
            _check_facts(kind, facts, params, where)
            entry = Entry(kind, name, file, node.name, summary, facts, params, module, kinds)
            _check_method(entry, where)
            yield entry


def _check_facts(kind: str, facts: Mapping[str, Any], params: Mapping[str, Any], where: str) -> None:
    """UserError for a fact of a method that is misspelt, or written with a type and so taken for a parameter."""
    if kind not in NOUNS:
        return
    for name in sorted(RESERVED & set(params)):
        raise UserError(f"{where}: `{name}` has a type, which makes it a parameter; write `{name} = ...` or ClassVar")
    if isinstance(facts.get("needs"), (tuple, list)):
        _check_kinds(facts["needs"], where)
        facts = {name: fact for name, fact in facts.items() if name != "needs"}
    trained = facts.get("needs") == TRAINING
    if kind in ("importance", "selection") and trained != (kind == "selection"):
        right, base = ("selection", "TrainedSelection") if trained else ("importance", "Importance")
        raise UserError(f"{where}: found @{kind} above it, expected @{right}, or another base class than {base}")
    for name, known in FACTS.items():
        if name in facts and facts[name] not in known:
            near = nearest(str(facts[name]), known)
            raise UserError(f"{where}: {name}: found {facts[name]!r}, expected one of {', '.join(known)}.{near}")
    for name, limit in facts.get("limits", {}).items():
        if name not in params or not (isinstance(limit, tuple) and len(limit) == 2):
            expected = "(least, largest) of a parameter, None where there is none"
            raise UserError(f"{where}: limits: found {name!r}: {limit!r}, expected {expected}.{nearest(name, params)}")


def _check_method(entry: Entry, where: str) -> None:
    """UserError for a method whose name a sweep can't spell, or whose defaults don't fit their own limits."""
    if entry.kind not in NOUNS:
        return
    if not METHOD_NAME.fullmatch(str(entry.name)):
        expected = "lower case letters, digits and dashes, such as my-criterion"
        raise UserError(f"{where}: found the name {entry.name!r}, expected {expected}")
    for name, default in entry.params.items():
        if isinstance(default, (int, float)) and (wrong := entry.misfit(name, default)):
            raise UserError(f"{where}: the default of {name}: {wrong}")


def _check_kinds(needs: Any, where: str) -> None:
    """UserError for several kinds of evidence of which one is unknown, twice there, or no evidence from images."""
    strange = [kind for kind in needs if kind not in EVIDENCE]
    if strange or len(set(needs)) != len(needs) or not needs:
        found = repr(strange[0]) if strange else repr(tuple(needs))
        near = nearest(str(strange[0]), EVIDENCE) if strange else ""
        raise UserError(f"{where}: needs: found {found}, expected several of {', '.join(EVIDENCE)}, each once.{near}")


def evidence_kinds(needs: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds of evidence that a criterion's `needs` names, one or several.

    Example:
        >>> evidence_kinds("weights"), evidence_kinds(("activations", "gradients"))
        (('weights',), ('activations', 'gradients'))
    """
    return (needs,) if isinstance(needs, str) else tuple(needs)


def needs_images(needs: str | Sequence[str]) -> bool:
    """Whether any evidence that `needs` names is computed from calibration images.

    Example:
        >>> needs_images("weights"), needs_images(("activations", "gradients"))
        (False, True)
    """
    return any(kind not in NO_DATA for kind in evidence_kinds(needs))


def reads_images(entry: Entry, params: Mapping[str, Any]) -> bool:
    """Whether a criterion with these parameters is computed from images, or refits layers to what they give.

    Example:
        >>> lamp = Entry("importance", "lamp", Path("lamp.py"), "Lamp")
        >>> reads_images(lamp, {}), reads_images(lamp, {"repair": "ridge"})
        (False, True)
    """
    refits = bool(entry.facts.get("reconstructs")) or entry.chosen(REPAIR, params) != OPTIONS[REPAIR][0]
    return refits or needs_images(entry.facts.get("needs", "weights"))


def _data(
    node: ast.ClassDef | ast.FunctionDef, file: Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, tuple[Any, ...]]]:
    """(facts, params, kinds of params) of a class, inherited ones included.

    A function has no facts, its params are its keywords.
    """
    if isinstance(node, ast.FunctionDef):
        return {}, _signature(node), {a.arg: _kinds(a.annotation) for a in node.args.args + node.args.kwonlyargs}
    facts: dict[str, Any] = {}
    params: dict[str, Any] = {}
    kinds: dict[str, tuple[Any, ...]] = {}
    for base in reversed(node.bases):
        found = _find_class(_last_name(base), file)
        if found:
            inherited_facts, inherited_params, inherited_kinds = _data(*found)
            facts |= inherited_facts
            params |= inherited_params
            kinds |= inherited_kinds
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            _keep(facts, item.targets[0].id, item.value)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if "ClassVar" in ast.dump(item.annotation):
                _keep(facts, item.target.id, item.value)
            else:
                params.setdefault(item.target.id, REQUIRED)
                _keep(params, item.target.id, item.value)
                kinds[item.target.id] = _kinds(item.annotation)
    return facts, params, kinds


def _kinds(annotation: ast.expr | None) -> tuple[Any, ...]:
    """The words and types that an annotation allows; empty for an annotation of another form."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):  # an annotation in quotes
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return ()
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        left, right = _kinds(annotation.left), _kinds(annotation.right)
        return left + right if left and right else ()
    if isinstance(annotation, ast.Subscript) and _last_name(annotation.value) == "Literal":
        words = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return tuple(word.value for word in words if isinstance(word, ast.Constant))
    if isinstance(annotation, ast.Subscript) and _last_name(annotation.value) == "Optional":
        inner = _kinds(annotation.slice)
        return (*inner, _Type("None")) if inner else ()
    name = "None" if isinstance(annotation, ast.Constant) else _last_name(annotation) if annotation else ""
    return (_Type(name),) if name in TYPES else ()


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
        line = f":{error.lineno}" if error.lineno else ""  # an encoding is that of the whole file
        raise UserError(f"{file}{line}: not Python: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise UserError(f"{file}: not Python: {error}") from error


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
