"""How every listing verb prints: a table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from raybench.results.text import cell, lines


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str] = ("table", "json")) -> None:
    """Give a listing verb its ``--format``."""
    parser.add_argument("--format", choices=formats, default="table", help="how to print (default: %(default)s)")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print `rows` as a table with `columns`; None prints as a dash. Numbers are right-aligned.

    On a terminal (or where COLUMNS is set) the last column is folded to fit; in a pipe nothing is: a row stays a line.
    """
    if title:
        print(title)
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        print("\n".join(lines(rows, columns)))
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        numeric = any(isinstance(row.get(column), (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    Console().print(table)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON on standard output, NaN refused."""
    print(json.dumps(value, indent=2, default=str, allow_nan=False))
