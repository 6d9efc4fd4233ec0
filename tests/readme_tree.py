"""The README's tree, written from the first line of every file's docstring: `python tests/readme_tree.py README.md`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tree: python tests/readme_tree.py README.md -->\n```\n", "```\n<!-- /tree -->"


def tree(root: Path = ROOT) -> str:
    """One line a file of the package, one a folder of what lies around it."""
    lines = []
    for folder in [root / "raybench", *sorted(p for p in (root / "raybench").rglob("*") if _is_room(p))]:
        depth = len(folder.relative_to(root).parts) - 1
        lines.append(_line(depth, f"{folder.name}/", _summary(folder / "__init__.py")))
        lines += [_line(depth + 1, f.name, _summary(f)) for f in sorted(folder.glob("*.py")) if f.name != "__init__.py"]
    return "\n".join(lines) + "\n"


def main(readme: Path) -> None:
    """Replace the tree in `readme`."""
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + tree() + END + after)


def _is_room(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").exists()


def _line(depth: int, name: str, summary: str) -> str:
    return f"{'  ' * depth}{name:<{30 - 2 * depth}} {summary}".rstrip()


def _summary(file: Path) -> str:
    """The first line of a file's docstring, without its end."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0].removesuffix(".")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
