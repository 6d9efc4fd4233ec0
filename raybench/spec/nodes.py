"""A YAML file as a tree in which every value knows its file and line, so that every mistake can say where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raybench.spec.mistakes import Mistake, Mistakes

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """A mapping (dict of nodes), a list (tuple of nodes) or a scalar, and the place that it was read from."""

    value: dict[str, Node] | tuple[Node, ...] | Any
    file: Path
    line: int  # 1-based; of the key for a mapping's value

    def plain(self) -> Any:
        """The value without the places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def get(self, key: str) -> Node | None:
        """The value of `key`, None when this is no mapping or has no such key."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def find(self, path: Sequence[str | int]) -> tuple[Node, Path_]:
        """(the deepest node on the way down `path`, the part of the path that led to it).

        The step 0 into what is no list stays where it is: one value stands for a list of one.
        """
        node: Node = self
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


def merge(parent: Node, child: Node) -> Node:
    """`child` over `parent`: maps merge key by key, anything else of the child replaces the parent's."""
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return child
    merged = dict(parent.value)
    for key, node in child.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, child.file, child.line)


def parse(file: Path, shown: Path | None = None) -> Node:
    """The mapping in `file`. Raises Mistakes: unreadable, not YAML, a duplicate key, an alias, not a mapping."""
    shown = shown or file
    try:
        text = file.read_text("utf-8")
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
        told = " ".join(filter(None, [error.context, error.problem]))
        raise Mistakes([Mistake(shown, mark.line + 1 if mark else None, "", f"not YAML: {told}")]) from error
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


def _build(node: yaml.Node, file: Path, line: int, path: Path_, mistakes: list[Mistake]) -> Node:
    if isinstance(node, yaml.MappingNode):
        return Node(dict(_pairs(node, file, path, mistakes)), file, line)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _build(item, file, item.start_mark.line + 1, (*path, place), mistakes)
            for place, item in enumerate(node.value)
        ]
        return Node(tuple(items), file, line)
    return Node(_scalar(node), file, line)


def _pairs(node: yaml.MappingNode, file: Path, path: Path_, mistakes: list[Mistake]) -> Iterator[tuple[str, Node]]:
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
    """The Python value; only what looks like null, true/false or a number is not a string (YAML 1.2's core rules)."""
    read = _READ.get(node.tag.rpartition(":")[2], str)
    try:
        return read(node.value)
    except ValueError:  # `!!int word`, or a number of 5,000 digits: words, which the model then refuses
        return node.value


_READ = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
}


class _Loader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2's idea of scalars (`1e-4` is a number, `no` a word) and refuses aliases."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  filled below, by PyYAML's own means

    def compose_node(self, parent: yaml.Node, index: Any) -> yaml.Node:
        """As PyYAML does, without aliases: they would let a small file unfold into a huge one."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"found the alias *{event.anchor}; expected values (use `extends` to share them)",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)
