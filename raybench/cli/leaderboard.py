"""raybench leaderboard: rank the methods of a results folder."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from raybench.cli.results import add_results, hint_to_compact, open_store, plain_warnings, without_pandas
from raybench.errors import UserError
from raybench.results.board_text import as_markdown, as_text
from raybench.results.leaderboard import Leaderboard, Query
from raybench.results.leaderboard_rows import rows, table
from raybench.results.store import csv_bytes, parquet_bytes

FORMATS = ("table", "markdown", "csv", "json", "parquet")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_results(parser)
    for name in ("model", "dataset", "strategy", "protocol"):
        parser.add_argument(f"--{name}", help=f"only this {name}")
    parser.add_argument("--speedup", type=_speedup, metavar="N|average", help="only this speed-up, or the average")
    parser.add_argument("--by", choices=("strategy",), help="rank the strategies of all methods in one table")
    tracks = ("criteria", "regularizers", "all")
    parser.add_argument("--track", choices=tracks, help="one ranking of these (default: criteria, then regularizers)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="how to print (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write there instead of printing")


def run(args: argparse.Namespace) -> int:
    """Rank, render, print."""
    names = ("model", "dataset", "speedup", "strategy", "protocol", "track", "by")
    store = open_store(args.results)
    with plain_warnings(), without_pandas():
        found = Leaderboard.read(store, Query(**{name: getattr(args, name) for name in names}))
    if args.format == "parquet" and args.output is None and sys.stdout.isatty():
        raise UserError("--format parquet: a terminal can't show it; name a file with -o FILE")
    content = _rendered(found, args.format)
    if args.output:
        args.output.write_bytes(content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    hint_to_compact(store)
    return 0


def _rendered(found: Leaderboard, form: str) -> bytes:
    if form == "parquet":
        return parquet_bytes(table(found))
    if form == "csv":
        return csv_bytes(rows(found))
    if form == "markdown":
        return f"{as_markdown(found)}\n".encode()
    if form == "json":
        whole = {"conditions": found.conditions, "rows": rows(found)}
        whole |= {"failed": [asdict(x) for x in found.failed], "skipped": [asdict(x) for x in found.skipped]}
        return f"{json.dumps(whole, indent=2, allow_nan=False)}\n".encode()
    return f"{as_text(found, shutil.get_terminal_size((140, 24)).columns)}\n".encode()


def _speedup(text: str) -> float | str:
    if text == "average":
        return text
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number such as 4, or average") from None
