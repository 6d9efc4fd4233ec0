"""Writes the generated parts of the documents: `python tests/readme_tree.py docs/architecture.md docs/results.md`.

A part stands between the comments ``<!-- NAME: ... -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def tree(root: Path = ROOT) -> str:
    """The package's folders and files, each with the first line of its docstring, as a code block."""
    lines = []
    for folder in [root / "raybench", *sorted(p for p in (root / "raybench").rglob("*") if _is_package(p))]:
        depth = len(folder.relative_to(root).parts) - 1
        lines.append(_line(depth, f"{folder.name}/", _summary(folder / "__init__.py")))
        lines += [_line(depth + 1, f.name, _summary(f)) for f in sorted(folder.glob("*.py")) if f.name != "__init__.py"]
    return "\n".join(["```", *lines, "```"])


def columns() -> str:
    """The columns of a result row and the fields of its nested columns, as Markdown tables."""
    from raybench.results.columns import COLUMNS

    nested = [column for column in COLUMNS if column.fields]
    tables = [
        _column_table(COLUMNS),
        *(f"Fields of `{c.name}` ({c.type}):\n\n{_column_table(c.fields)}" for c in nested),
    ]
    return "\n\n".join(tables)


PARTS: Mapping[str, Callable[[], str]] = {"tree": tree, "columns": columns}


def generated(text: str) -> Iterator[tuple[str, str]]:
    """(name, content) of each generated part of a document."""
    for name in PARTS:
        yield from ((name, content.strip("\n")) for content in _pattern(name).findall(text))


def renewed(text: str) -> str:
    """The document with every generated part written anew."""
    for name, make in PARTS.items():
        pattern = _pattern(name)
        text = pattern.sub(lambda found, make=make: found[0].replace(found[1], f"\n{make()}\n"), text)
    return text


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- {name}: [^\n]* -->(\n.*?)<!-- /{name} -->", re.DOTALL)


def _is_package(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").exists()


def _line(depth: int, name: str, summary: str) -> str:
    return f"{'  ' * depth}{name:<{30 - 2 * depth}} {summary}".rstrip()


def _summary(file: Path) -> str:
    """The first line of a file's docstring, without its end."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0].removesuffix(".")


def _column_table(shown: Iterable[Any]) -> str:
    rows = ["| column | type | unit | better | never empty in | meaning |", "|---|---|---|---|---|---|"]
    for c in shown:
        needed = "all rows" if len(c.needed) == 3 else " ".join(sorted(c.needed)) or "-"
        rows.append(f"| `{c.name}` | {c.type} | {c.unit or '-'} | {c.better or '-'} | {needed} | {c.meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        file = Path(argument)
        file.write_text(renewed(file.read_text()))
