"""`raybench leaderboard RESULTS`: ranks the methods of a storage, one table per board."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from raybench.cli.output import say
from raybench.cli.quantities import speedup_or_average
from raybench.cli.results import add_results, hint_to_compact, open_store, write_file
from raybench.errors import UserError, counted, printable
from raybench.reports.board_latex import as_latex
from raybench.reports.board_text import as_markdown, as_text
from raybench.reports.board_wide import as_wide_text
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.leaderboard_rows import rows, table
from raybench.reports.unfinished import unfinished
from raybench.results.encoding import csv_bytes, parquet_bytes

FORMATS = ("table", "markdown", "csv", "json", "parquet", "latex")
ENDINGS = {
    ".txt": "table", ".md": "markdown", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".tex": "latex",
}  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    for name in ("model", "dataset", "strategy", "protocol"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only this {name}")
    parser.add_argument(
        "--speedup",
        type=speedup_or_average,
        metavar="N|average",
        help="only this speed-up, such as 4; or average: the mean over all speed-ups",
    )
    parser.add_argument("--by", choices=("strategy",), help="rank the strategies of all methods in one table")
    tracks = ("criteria", "regularizers", "tokens", "all")
    parser.add_argument(
        "--track",
        choices=tracks,
        help="rank only criteria, regularizers or token reducers, or all in one table (default: one table for each)",
    )
    parser.add_argument("--wide", action="store_true", help="one table for all speed-ups, with a column for each")
    text = "output format (default: by the ending of -o, else table)"
    parser.add_argument("--format", choices=FORMATS, help=text)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"write to FILE: {', '.join(ENDINGS)}")


def run(args: argparse.Namespace) -> int:
    """Rank the results and print or write the boards."""
    names = ("model", "dataset", "speedup", "strategy", "protocol", "track", "by")
    args.format = _format(args.format, args.output)
    if args.wide and args.format != "table":
        raise UserError(
            f"--wide: found --format {args.format} beside it, expected table: other formats have a row a cell"
        )
    store = open_store(args.results)
    found = Leaderboard.read(
        store, Query(**{name: getattr(args, name) for name in names}, together=args.track == "all")
    )
    if args.format == "parquet" and args.output is None and sys.stdout.isatty():
        raise UserError("--format parquet: can't be printed on a terminal; name a file with -o FILE")
    content = _rendered(found, args.format, args.wide)
    if args.output:
        write_file(args.output, content)
        count = sum(len(board.entries) for board in found.boards)
        print(f"wrote {args.output}: {counted(len(found.boards), 'ranking')}, {counted(count, 'row')}, {args.format}")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    for line in unfinished(store.storage):
        say(f"note: {line}", file=sys.stderr)
    hint_to_compact(store)
    return 0


def _rendered(found: Leaderboard, form: str, wide: bool) -> bytes:
    if form == "parquet":
        return parquet_bytes(table(found))
    if form == "csv":
        return csv_bytes(rows(found))
    if form == "latex":
        return f"{as_latex(found)}\n".encode()
    if form == "markdown":
        return printable(f"{as_markdown(found)}\n").encode()
    if form == "json":
        whole = {"conditions": found.conditions, "rows": rows(found)}
        whole |= {"failed": [asdict(x) for x in found.failed], "skipped": [asdict(x) for x in found.skipped]}
        return f"{json.dumps(whole, indent=2, allow_nan=False)}\n".encode()
    text = as_wide_text if wide else as_text
    return printable(f"{text(found, shutil.get_terminal_size((140, 24)).columns)}\n").encode()


def _format(form: str | None, file: Path | None) -> str:
    """The format that was asked for, or else the one of the file's ending; UserError for an unknown ending."""
    ending = file.suffix.lower() if file else ".txt"
    if form is None and ending not in ENDINGS:
        raise UserError(f"-o {file}: found the ending {ending!r}, expected one of {', '.join(ENDINGS)}; or --format")
    return form or ENDINGS[ending]
