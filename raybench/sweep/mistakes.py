"""Error messages for a sweep file: file and line, key, what was found, what was expected."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raybench.errors import SpecError, brief, close, nearest
from raybench.sweep.bounds import model_in, range_of

MOST_SHOWN = 100  # mistakes in a message


@dataclass(frozen=True)
class Mistake:
    """One mistake with its place, printed as `FILE:LINE: key.path: found X, expected Y`."""

    file: Path
    line: int | None
    path: Sequence[str | int]
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{where}{dotted(self.path)}: {self.message}" if self.path else f"{where}{self.message}"


class Mistakes(SpecError):
    """All mistakes of one sweep, in the order of the file."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = f"{len(mistakes)} mistakes\n" if len(mistakes) > 1 else ""
        more = [f"and {len(mistakes) - MOST_SHOWN} more"] if len(mistakes) > MOST_SHOWN else []
        super().__init__(count + "\n".join([*_listed_once(mistakes[:MOST_SHOWN]), *more]))


def _listed_once(mistakes: Sequence[Mistake]) -> Iterator[str]:
    """The mistakes as text; a list of known names that an earlier one had isn't repeated."""
    seen: set[str] = set()
    for one in mistakes:
        said, known, names = str(one).partition(" Known: ")
        yield said if names in seen else f"{said}{known}{names}"
        seen.add(names)


def dotted(path: Sequence[str | int]) -> str:
    """``models[1].name`` for ("models", 1, "name")."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def explain(error: dict[str, Any], model: type[BaseModel]) -> str:
    """Message of one pydantic error from validating `model`: `found X, expected Y. Did you mean Z?`."""
    kind, context, found = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), error["loc"][:-1], model)
    if kind == "missing":
        return "the key is missing; it is required"
    if kind in ("value_error", "mistake"):
        return str(context.get("error") or error["msg"])
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"found {show(found)}, expected {context['expected']}.{nearest(str(found), allowed)}"
    expected = _expected(kind, context, error["msg"])
    if expected.startswith(("a number", "a finite number")):
        bounds = range_of(model, error["loc"])
        expected = f"{expected.partition(' number')[0]} number {bounds}".rstrip() if bounds else expected
    return f"found {show(found)}, expected {expected}"


def _unknown_key(key: str, loc: Sequence[str | int], model: type[BaseModel]) -> str:
    """Message for a `key` that isn't allowed at `loc`: the nearest that is, or that it is a key of the file itself."""
    known = _fields_at(model, loc)
    near = nearest(key, known)
    if loc and not close(key, known) and (own := close(key, _fields_at(model, ()))):
        there = re.sub(r"\[\d+\]", "", dotted(loc))
        near = f" {own!r} is a key of the sweep itself; {there} can't have it."
    return f"unknown key.{near} Known: {', '.join(known)}"


def show(value: Any) -> str:
    """A value as text for a message, in YAML's spelling, at most 60 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a mapping with {brief(', '.join(map(str, value))) or 'no keys'}"
    if isinstance(value, (list, tuple)):
        return "an empty list" if not value else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least one value",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text",
    "string_too_long": "text of at most {max_length} characters",
}


def _expected(kind: str, context: dict[str, Any], message: str) -> str:
    if kind in _EXPECTED:
        return _EXPECTED[kind].format(**context)
    return message[:1].lower() + message[1:].removeprefix("Input should be ")


def _fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Names of the keys that are allowed at `loc` below `model`."""
    for step in loc:
        if isinstance(step, str) and step in model.model_fields:
            model = model_in(model.model_fields[step].annotation) or model
    return sorted(field.alias or name for name, field in model.model_fields.items())
