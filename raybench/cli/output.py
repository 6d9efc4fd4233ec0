"""Prints the rows of listing verbs: tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.table import Table

from raybench.errors import printable
from raybench.progress.console import SafeConsole
from raybench.reports.text import cell, lines


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str] = ("table", "json")) -> None:
    """Add the option ``--format``."""
    parser.add_argument("--format", choices=formats, default="table", help="output format (default: %(default)s)")


def terminal_width() -> int | None:
    """Characters of the terminal, or of COLUMNS where it is set; None in a pipe."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size((80, 24)).columns
    return None


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print `rows` as a table with `columns`; None prints as a dash, numbers are right-aligned.

    On a terminal, or with COLUMNS set, the last column is wrapped to fit. In a pipe each row is one line.
    """
    if title:
        print(title)
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        print("\n".join(lines(rows, columns)))
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


def print_json(value: Any) -> None:
    """Print `value` as indented JSON; NaN and infinity, which JSON lacks, become null."""
    print(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
