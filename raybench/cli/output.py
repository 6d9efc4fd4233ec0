"""Prints the rows of listing verbs: tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO

from rich.table import Table

from raybench.errors import printable
from raybench.progress.console import SafeConsole
from raybench.reports.text import cell, indented, lines, wrapped

WRAPPED = 24  # characters that are left for a wrapped column


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str] = ("table", "json")) -> None:
    """Add the option ``--format``."""
    parser.add_argument("--format", choices=formats, default="table", help="output format (default: %(default)s)")


def terminal_width() -> int | None:
    """Characters of the terminal, or of COLUMNS where it is set; None in a pipe."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size((80, 24)).columns
    return None


def say(text: str, file: TextIO | None = None) -> None:
    """Print `text`; on a terminal its lines are wrapped at words, further lines indented. In a pipe they stay whole."""
    width = terminal_width()
    for line in text.split("\n"):
        print("\n".join(indented(line, width) if width else [line]), file=file)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print `rows` as a table with `columns`; None prints as a dash, numbers are right-aligned.

    On a terminal, or with COLUMNS set, what doesn't fit is made to: columns without a value go, columns with one value
    for all rows are named in a line, the last column is wrapped; where that isn't enough, each row is a list. In a pipe
    each row is one line, whatever its length.
    """
    if title:
        print(title)
    width = terminal_width()
    if width is None:
        print("\n".join(lines(rows, columns)))
        return
    common, columns = _fitting(rows, columns, width)
    if common:
        say(printable(f"all rows: {'; '.join(common)}"))
    if _least(rows, columns) > width:
        print("\n\n".join("\n".join(_as_list(row, columns, width)) for row in rows))
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        numeric = any(isinstance(row.get(column), (int, float)) for row in rows)
        last = column == columns[-1]
        overflow: Literal["fold", "ellipsis"] = "fold" if last else "ellipsis"  # an address is copied: never cut
        table.add_column(column, justify="right" if numeric else "left", no_wrap=not last, overflow=overflow)
    for row in rows:
        table.add_row(*(printable(cell(row.get(column))) for column in columns))  # before widths are measured
    SafeConsole().print(table)


def _fitting(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> tuple[list[str], list[str]]:
    """(What all rows have in common, the columns to print): all columns where they fit the terminal's width."""
    kept, common = list(columns), []
    if _least(rows, kept) > width:
        kept = [name for name in kept if any(row.get(name) is not None for row in rows)] or kept
    if _least(rows, kept) > width and len(rows) > 1:
        alike = [name for name in kept[:-1] if len({cell(row.get(name)) for row in rows}) == 1]
        common = [f"{name} {cell(rows[0].get(name))}" for name in alike]
        kept = [name for name in kept if name not in alike]
    return common, kept


def _least(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> int:
    """Characters that a table needs: the last column may be wrapped, unless it is one word."""
    texts = [[name, *(printable(cell(row.get(name))) for row in rows)] for name in columns]
    widths = [max(map(len, column)) for column in texts]
    words = max(len(word) for text in texts[-1] for word in (text.split() or [""]))
    return sum(widths[:-1]) + max(words, min(widths[-1], WRAPPED)) + 2 * (len(columns) - 1)


def _as_list(row: Mapping[str, Any], columns: Sequence[str], width: int) -> list[str]:
    """One line a column that has a value, wrapped."""
    shown = {name: printable(cell(row[name])) for name in columns if row.get(name) is not None}
    names = max(map(len, shown), default=0) + 2
    found: list[str] = []
    for name, text in shown.items():
        found += wrapped(text, width, f"{name:<{names}}", " " * names)
    return found


def print_json(value: Any) -> None:
    """Print `value` as indented JSON; NaN and infinity, which JSON lacks, become null."""
    print(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
