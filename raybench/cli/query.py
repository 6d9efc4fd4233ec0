"""raybench query: SQL over a results folder."""

from __future__ import annotations

import argparse
import sys

from raybench.cli.output import print_json
from raybench.cli.results import add_results, hint_to_compact, open_store, plain_warnings, without_nan
from raybench.results.store import csv_bytes
from raybench.results.text import lines


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_results(parser)
    parser.add_argument("sql", metavar="SQL", help="a SELECT over trials, leaderboard, curves, layers, published")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Ask, and print the rows."""
    from raybench.results.query import query

    store = open_store(args.results)
    with plain_warnings():
        answer = query(store, args.sql)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    if args.format == "json":
        print_json(without_nan(rows))
    elif args.format == "csv":
        sys.stdout.write(csv_bytes(rows).decode() if rows else ",".join(answer.columns) + "\n")
    else:
        print("\n".join(lines(rows, answer.columns)))
        print(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}")
    hint_to_compact(store)
    return 0
