"""Aligned text tables. Lines are never folded: a terminal scrolls, a pipe gets everything.

Own code rather than rich: rich takes 8 s for 20,000 rows of 8 columns, this takes 0.1 s. Where a terminal needs its
last column folded, `cli/output.py` uses rich.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from raybench.error_text import shortened
from raybench.errors import counted, one_line, printable

MOST_CELL, MOST_LINE = 5_000, 20_000  # characters of one text from a row, which may hold megabytes


def lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """A header and one line a row. None is a dash, floats have five digits, numbers are right-aligned."""
    return aligned(*_table(rows, columns))


def cut_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> list[str]:
    """The same within `width` characters: wide columns are cut, and a last line says how many don't fit at all."""
    cells, right = _table(rows, columns)
    shown, hidden = cut_to(cells, width)
    more = [f"and {counted(hidden, 'more column')}: a pipe and --format json have all"] if hidden else []
    return [*aligned(shown, right[: len(shown[0])]), *more]


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[list[list[str]], list[bool]]:
    """The cells of a table, the header first, and which columns hold numbers."""
    cells = [list(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return cells, [any(isinstance(row.get(name), (int, float)) for row in rows) for name in columns]


def cell(value: Any) -> str:
    """One value as text."""
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def signed(value: float) -> str:
    """A difference with its sign and two decimals; a zero is never negative.

    Example:
        >>> signed(-0.001), signed(1.5)
        ('+0.00', '+1.50')
    """
    return f"{round(value, 2) + 0.0:+.2f}"


NARROWEST = 8  # characters to which a column is cut at most


def cut_to(cells: Sequence[Sequence[str]], width: int) -> tuple[list[list[str]], int]:
    """`cells` of a table that fits into `width` characters, and how many columns at the right were left out for it.

    The widest columns are cut first, all to the same width; a cut text ends with a dot-dot-dot.

    Example:
        >>> cut_to([["a", "long"], ["1", "words and words"]], 14)
        ([['a', 'long'], ['1', 'words and …']], 0)
    """
    widths = column_widths(cells)

    def total(most: int, columns: int) -> int:
        return sum(min(one, most) for one in widths[:columns]) + 2 * (columns - 1)

    columns = next((n for n in range(len(widths), 1, -1) if total(NARROWEST, n) <= width), min(len(widths), 1))
    most = next((n for n in range(max(widths), NARROWEST, -1) if total(n, columns) <= width), NARROWEST)
    shown = [[text if len(text) <= most else text[: most - 1] + "…" for text in row[:columns]] for row in cells]
    return shown, len(widths) - columns


def markdown(text: str) -> str:
    """`text` in one line as Markdown shows it: names from results make no links, HTML, columns or lines of their own.

    Example:
        >>> markdown("a_b"), markdown("<b> [x](y)\n# z")
        ('a_b', '\\<b\\> \\[x\\](y) # z')
    """
    line = printable(one_line(text))
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", line) if re.search(r"[\\`<>|\[\]]", line) else line


def wrapped(text: str, width: int, first: str = "", rest: str = "  ") -> list[str]:
    """`text` in lines of at most `width` characters; a name or an address, which people copy, is never cut.

    Example:
        >>> wrapped("lamp, magnitude-l2+group-norm", 16)
        ['lamp,', '  magnitude-l2+group-norm']
    """
    return wrap(
        shortened(text, MOST_LINE),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def indented(line: str, width: int) -> list[str]:
    """A line in lines of at most `width` characters, with its own indentation and two more from the second one on.

    Example:
        >>> indented("  lamp, cp and taylor", 14)
        ['  lamp, cp and', '    taylor']
    """
    text = line.lstrip()
    indent = line[: len(line) - len(text)]
    return wrapped(text, width, indent, f"{indent}  ") if len(line) > width else [line]


def aligned(cells: Sequence[Sequence[str]], right: Sequence[bool], gap: str = "  ") -> list[str]:
    """One line a row of `cells`, padded to the width of each column; `right` says which columns are right-aligned."""
    shown = [[shortened(text, MOST_CELL) for text in row] for row in cells]
    widths = column_widths(shown)
    return [gap.join(map(_pad, row, widths, right)).rstrip() for row in shown]


def column_widths(cells: Sequence[Sequence[str]]) -> list[int]:
    """Characters of the longest cell of each column."""
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
