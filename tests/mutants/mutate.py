"""The mutants of a file: mutmut's operators on every expression that changes what the code does.

Left out are annotations, decorators, imports, docstrings, `raise` and `assert` statements, warnings and logged text,
`strict=` of `zip`, and aliases of types: a change there changes a message, a check of types or nothing. Of mutmut's
three ways to change a string the first is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

TEXT = m.Call(
    func=m.OneOf(
        m.Attribute(attr=m.OneOf(*map(m.Name, ("warn", "info", "warning", "debug", "error")))),
        m.OneOf(*map(m.Name, ("print", "UserError", "StageError", "NotSupported"))),
    )
)
ALIAS = m.Assign(value=m.Subscript() | m.BinaryOperation(operator=m.BitOr(), right=m.Name("None")))
DOCSTRING = m.Expr(value=m.SimpleString() | m.ConcatenatedString())
STRICT = m.Arg(keyword=m.Name("strict"))
NO_EFFECT = (
    m.Annotation() | m.Decorator() | m.Import() | m.ImportFrom() | m.Raise() | m.Assert() | TEXT | DOCSTRING
    | STRICT | m.If(test=m.Name("TYPE_CHECKING"))
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One changed expression of one file."""

    path: str  # relative to the repository
    line: int
    column: int
    number: int  # among the mutants that start at this place
    lines: tuple[int, int] | None  # the statement's first and last line; None: it runs when the file is imported
    module: cst.Module
    old: cst.CSTNode
    new: cst.CSTNode

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}:{self.column}:{self.number}"

    @cached_property
    def source(self) -> str:
        """The whole file with the change."""
        changed = self.module.deep_replace(self.old, self.new)
        assert isinstance(changed, cst.Module)
        return changed.code

    @property
    def change(self) -> str:
        """The changed expression, before and after."""
        before, after = (" ".join(self.module.code_for_node(node).split()) for node in (self.old, self.new))
        return f"{before}  ->  {after}"


def mutants(root: Path, path: str) -> list[Mutant]:
    """All mutants of the file `path` of the repository `root`, in order of their place."""
    wrapper = MetadataWrapper(cst.parse_module((root / path).read_text()), unsafe_skip_copy=True)
    finder = _Finder(path, wrapper.module)
    wrapper.visit(finder)
    return finder.found


def sampled(found: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` mutants drawn by `seed` (0: all), in order of their place."""
    drawn = sorted(found, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())
    chosen = {mutant.name for mutant in drawn[: count or None]}
    return [mutant for mutant in found if mutant.name in chosen]


class _Finder(cst.CSTVisitor):
    """Collects the mutants of a module, and the lines that a test must run to notice them."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, path: str, module: cst.Module) -> None:
        super().__init__()
        self.path, self.module, self.found = path, module, list[Mutant]()
        self._functions: list[cst.CSTNode] = []
        self._statements: list[cst.CSTNode] = []
        self._places: dict[tuple[int, int], int] = {}

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, NO_EFFECT) or (not self._functions and m.matches(node, ALIAS)):
            return False
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self._statements.append(node)
        if isinstance(node, cst.FunctionDef):
            self._functions.append(node)
        for new in _changes(node):
            start = self._position(node).start
            number = self._places.get((start.line, start.column), 0)
            self._places[start.line, start.column] = number + 1
            place = (self.path, start.line, start.column, number)
            self.found.append(Mutant(*place, self._lines(), self.module, node, new))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        for stack in (self._statements, self._functions):
            if stack and stack[-1] is original_node:
                stack.pop()

    def _position(self, node: cst.CSTNode) -> CodeRange:
        return self.get_metadata(PositionProvider, node)

    def _lines(self) -> tuple[int, int] | None:
        """First and last line of the statement, of the header of a compound one; of the body for a default value."""
        if not self._functions:
            return None
        inner = self._statements[-1]
        first, last = self._position(inner).start.line, self._position(inner).end.line
        if inner is self._functions[-1]:
            body = self._position(inner.body)  # type: ignore[attr-defined]
            return body.start.line, last
        if isinstance(inner, cst.BaseCompoundStatement) and hasattr(inner, "body"):
            last = max(first, self._position(inner.body).start.line - 1)
        return first, last


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            made = [new for new in operator(node) if not _only_strict(node, new)]
            yield from made[:1] if kind is cst.BaseString else made


def _only_strict(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether a call differs in its `strict=` alone."""
    if not (isinstance(old, cst.Call) and isinstance(new, cst.Call)):
        return False
    left = [[arg.value for arg in call.args if not m.matches(arg, STRICT)] for call in (old, new)]
    return len(left[0]) == len(left[1]) and all(a is b for a, b in zip(*left, strict=True)) and old.func is new.func
