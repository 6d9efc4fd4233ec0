"""`raybench query RESULTS SQL`: runs an SQL query over the results of a storage."""

from __future__ import annotations

import argparse
import sys

from raybench.cli.output import add_format, print_json, terminal_width
from raybench.cli.results import add_results, hint_to_compact, open_store
from raybench.errors import counted
from raybench.reports.text import cut_lines, lines
from raybench.results.encoding import csv_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    parser.add_argument(
        "sql", metavar="SQL", help="a SELECT over the tables trials, leaderboard, curves, layers, published, literature"
    )
    add_format(parser, ("table", "json", "csv"))


def run(args: argparse.Namespace) -> int:
    """Run the query and print its rows."""
    from raybench.reports.query import query

    store = open_store(args.results)
    answer = query(store, args.sql)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    if args.format == "json":
        print_json(rows)
    elif args.format == "csv":
        sys.stdout.write(csv_bytes(rows).decode() if rows else ",".join(answer.columns) + "\n")
    else:
        width = terminal_width()
        print("\n".join(cut_lines(rows, answer.columns, width) if width else lines(rows, answer.columns)))
        print(counted(len(rows), "row"))
    hint_to_compact(store)
    return 0
