"""Parses a YAML file into a tree whose nodes carry file and line, for error messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raybench.sweep.mistakes import Mistake, Mistakes

Path_ = tuple[str | int, ...]
TAGS = "tag:yaml.org,2002:"
KNOWN_TAGS = {"null", "bool", "int", "float", "str", "seq", "map"}  # all that a sweep may hold; none runs code
LARGEST = 16 << 20  # bytes of a file
MOST_VALUES = 100_000  # reading them takes some ten seconds
HINT = "Paths may hold $VARIABLES of the environment"


@dataclass(frozen=True)
class YamlNode:
    """A mapping (dict of nodes), a list (tuple of nodes) or a scalar, with the file and line it was read from."""

    value: dict[str, YamlNode] | tuple[YamlNode, ...] | Any
    file: Path
    line: int  # from 1; for the value of a mapping's key, the line of the key

    @property
    def fields(self) -> dict[str, YamlNode]:
        """Key -> node of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> tuple[YamlNode, ...]:
        """The nodes of a list; a single value stands for a list of one."""
        return self.value if isinstance(self.value, tuple) else (self,)

    def replaced(self, value: Any) -> YamlNode:
        """A node with another value at the same place."""
        return YamlNode(value, self.file, self.line)

    def plain(self) -> Any:
        """The value without files and lines: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def get(self, key: str) -> YamlNode | None:
        """The node of `key`; None when this is no mapping or has no such key."""
        return self.fields.get(key)

    def find(self, path: Sequence[str | int]) -> tuple[YamlNode, Path_]:
        """(the deepest node along `path`, the part of the path that led to it).

        The index 0 of a single value is the value itself, since one value stands for a list of one.
        """
        node: YamlNode = self
        walked: list[str | int] = []
        for step in path:
            inner = node.value
            if isinstance(inner, tuple) and isinstance(step, int) and step < len(inner):
                node = inner[step]
            elif isinstance(inner, dict) and step in inner:
                node = inner[str(step)]
            elif step == 0:
                continue
            else:
                break
            walked.append(step)
        return node, tuple(walked)


def merge(parent: YamlNode, child: YamlNode) -> YamlNode:
    """`child` over `parent`: mappings are merged key by key, any other value of the child replaces the parent's."""
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return child
    merged = dict(parent.value)
    for key, node in child.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return child.replaced(merged)


def parse(file: Path, shown: Path | None = None) -> YamlNode:
    """The mapping in `file`. Raises Mistakes if it is unreadable, no YAML mapping, or has duplicate keys or aliases."""
    shown = shown or file
    try:
        with file.open("rb") as opened:  # a pipe will do: `raybench plan <(...)`
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Mistakes([Mistake(shown, None, "", f"found more than {LARGEST >> 20} MiB, expected a sweep file")])
        text = content.decode("utf-8")
    except OSError as error:
        raise Mistakes([Mistake(shown, None, "", f"can't be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise Mistakes(
            [Mistake(shown, None, "", f"is not UTF-8 text: {error.reason} at byte {error.start}")]
        ) from error
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise Mistakes([Mistake(shown, mark.line + 1 if mark else None, "", f"not YAML: {problem}")]) from error
    except yaml.YAMLError as error:
        raise Mistakes([Mistake(shown, None, "", f"not YAML: {error}".splitlines()[0])]) from error
    except RecursionError as error:
        raise Mistakes([Mistake(shown, None, "", "not readable: it is nested too deeply")]) from error
    if root is None:
        raise Mistakes([Mistake(shown, 1, "", "found an empty file; expected a mapping of keys")])
    mistakes: list[Mistake] = []
    node = _build(root, shown, root.start_mark.line + 1, (), mistakes)
    if not isinstance(node.value, dict):
        kind = "a list" if isinstance(node.value, tuple) else repr(node.value)
        mistakes.append(Mistake(shown, node.line, "", f"found {kind}; expected a mapping of keys"))
    if mistakes:
        raise Mistakes(mistakes)
    return node


def scalar(text: str) -> Any:
    """One value as a sweep file would read it: a number, true, false or null; any other text stays text."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        return text
    known = isinstance(root, yaml.ScalarNode) and root.tag.removeprefix(TAGS) in KNOWN_TAGS
    return _scalar(root) if known else text


def _build(node: yaml.Node, file: Path, line: int, path: Path_, mistakes: list[Mistake]) -> YamlNode:
    if node.tag.removeprefix(TAGS) not in KNOWN_TAGS:
        shown = node.tag.replace(TAGS, "!!")[:60]
        mistakes.append(Mistake(file, line, path, f"found the tag {shown}, expected a value without one. {HINT}"))
        return YamlNode(None, file, line)
    if isinstance(node, yaml.MappingNode):
        return YamlNode(dict(_pairs(node, file, path, mistakes)), file, line)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _build(item, file, item.start_mark.line + 1, (*path, place), mistakes)
            for place, item in enumerate(node.value)
        ]
        return YamlNode(tuple(items), file, line)
    return YamlNode(_scalar(node), file, line)


def _pairs(node: yaml.MappingNode, file: Path, path: Path_, mistakes: list[Mistake]) -> Iterator[tuple[str, YamlNode]]:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            mistakes.append(Mistake(file, line, path, "found a list or mapping as a key; expected a name"))
            continue
        key = key_node.value
        if key in seen:
            mistakes.append(
                Mistake(file, line, (*path, key), f"found the key twice; it is on line {seen[key]} already")
            )
        seen[key] = line
        yield key, _build(value_node, file, line, (*path, key), mistakes)


def _scalar(node: yaml.ScalarNode) -> Any:
    """The Python value by the YAML 1.2 core schema: null, true and false, numbers, else a string."""
    read = _READ.get(node.tag.rpartition(":")[2], str)
    try:
        return read(node.value)
    except ValueError:  # `!!int word`, or a number of 5,000 digits: kept as text, which validation then refuses
        return node.value


_READ: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
}


class _Loader(yaml.SafeLoader):
    """A YAML loader with the scalars of YAML 1.2 (`1e-4` is a number, `no` a string) and without aliases."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  filled below by add_implicit_resolver
    values = 0  # that were read

    def compose_node(self, parent: yaml.Node, index: Any) -> yaml.Node:
        """As PyYAML, but refuses aliases, with which a small file can expand to a huge one."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"found the alias *{event.anchor}; expected values (use `extends` to share them)",
                problem_mark=event.start_mark,
            )
        self.values += 1
        if self.values > MOST_VALUES:
            problem = f"found more than {MOST_VALUES:,} keys and values, expected a sweep file"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as another kind of value; repeats a value instead of writing an alias."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an alias, which `parse` refuses."""
        return True


def as_yaml(fields: Mapping[str, Any]) -> str:
    """A mapping as YAML that `parse` reads as the same values; short lists stand on one line."""
    return "".join(
        yaml.dump(
            {key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100,
            default_flow_style=None if isinstance(value, (list, dict)) else False,
        )
        for key, value in fields.items()
    )  # fmt: skip
