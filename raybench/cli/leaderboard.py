"""`raybench leaderboard RESULTS`: ranks the methods of a storage, one table per board."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from raybench.cli.results import add_results, hint_to_compact, open_store
from raybench.errors import UserError
from raybench.reports.board_text import as_markdown, as_text
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.leaderboard_rows import rows, table
from raybench.results.encoding import csv_bytes, parquet_bytes

FORMATS = ("table", "markdown", "csv", "json", "parquet")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    for name in ("model", "dataset", "strategy", "protocol"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only this {name}")
    parser.add_argument(
        "--speedup",
        type=_speedup,
        metavar="N|average",
        help="only this speed-up, such as 4; or average: the mean over all speed-ups",
    )
    parser.add_argument("--by", choices=("strategy",), help="rank the strategies of all methods in one table")
    tracks = ("criteria", "regularizers", "all")
    parser.add_argument(
        "--track",
        choices=tracks,
        help="rank only criteria, only regularizers, or all in one table (default: criteria, then regularizers)",
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="output format (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of printing")


def run(args: argparse.Namespace) -> int:
    """Rank the results and print or write the boards."""
    names = ("model", "dataset", "speedup", "strategy", "protocol", "track", "by")
    store = open_store(args.results)
    found = Leaderboard.read(store, Query(**{name: getattr(args, name) for name in names}))
    if args.format == "parquet" and args.output is None and sys.stdout.isatty():
        raise UserError("--format parquet: can't be printed on a terminal; name a file with -o FILE")
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
