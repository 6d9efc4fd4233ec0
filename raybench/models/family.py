"""Smaller networks of the same family: registered ones by the fact `family`, timm's by name, others by a width."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raybench import registry
from raybench.sweep.method_label import with_params

WIDTH = "width"  # the parameter of a registered network that scales all of its widths
SIZES = ("atto", "femto", "pico", "nano", "tiny", "small", "medium", "base", "large", "xlarge", "huge", "giant")
_SIZE = re.compile(rf"(?<=_)({'|'.join(SIZES)})(?=_|$)")
_NUMBER = re.compile(r"(?<=[a-z_])\d+(?=_|d|$)")


@dataclass(frozen=True)
class Member:
    """One network of a family, by its name and parameters."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        entry = registry.model.entries().get(self.name)
        defaults = entry.params if entry else {}
        return with_params(self.name, {key: one for key, one in self.params.items() if defaults.get(key) != one})


def has_family(name: str) -> bool:
    """Whether smaller networks of the family of `name` may be known; timm's names are looked through later."""
    entry = registry.model.entries().get(name)
    return name.startswith("timm:") if entry is None else bool(entry.facts.get("family")) or WIDTH in entry.params


def relatives(name: str, params: Mapping[str, Any]) -> Iterator[Member]:
    """The other networks of the family, larger and smaller ones, with the same parameters where they take them."""
    if name.startswith("timm:"):
        yield from (Member(f"timm:{found}", params) for found in _timm_relatives(name.removeprefix("timm:")))
        return
    entries = registry.model.entries()
    own = entries[name].facts.get("family")
    for other, entry in entries.items():
        if own and other != name and entry.facts.get("family") == own:
            yield Member(other, {key: value for key, value in params.items() if key in entry.params})


def widths(name: str, params: Mapping[str, Any]) -> tuple[Member, ...]:
    """The same network at every smaller `width`, rising; empty where it has no such parameter."""
    entry = registry.model.entries().get(name)
    if entry is None or WIDTH not in entry.params:
        return ()
    full = int(params.get(WIDTH, entry.params[WIDTH]))
    return tuple(Member(name, {**params, WIDTH: width}) for width in range(1, full))


def _timm_relatives(name: str) -> list[str]:
    """timm's networks whose name differs in its word for the size, else in its first number, and is smaller."""
    import timm

    bare = name.partition(".")[0]
    word, number = _SIZE.search(bare), _NUMBER.search(bare)
    found = word or number
    if found is None:
        return []
    same = re.compile(f"{re.escape(bare[: found.start()])}([a-z]+|[0-9]+){re.escape(bare[found.end() :])}")
    known = ((one, fits[1]) for one in timm.list_models() if (fits := same.fullmatch(one)))
    return [one for one, size in known if _rank(size) is not None and _rank(size) < _rank(found[0])]


def _rank(size: str) -> Any:
    """A size as a number, by which those of one kind compare; None for another word."""
    if size.isdecimal():
        return int(size)
    return SIZES.index(size) if size in SIZES else None
