"""`raybench report RESULTS`: makes pages of a storage that are read in a browser, also without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from raybench.cli.results import add_results, hint_to_compact, open_store
from raybench.errors import counted


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to write, or FILE.html (default: report)"
    )
    where.add_argument("--single-file", type=Path, metavar="FILE", help="one file with everything, such as report.html")


def run(args: argparse.Namespace) -> int:
    """Make the report."""
    from raybench.reports.pages.site import write_report

    store = open_store(args.results)
    folder = Path(args.results) if Path(args.results).is_dir() else None
    out = args.single_file or args.output or Path("report")
    single = args.single_file is not None or out.suffix.lower() in (".html", ".htm")
    made = write_report(store, out, single=single, about=folder)
    start = made.path if single else made.path / "index.html"
    print(f"wrote {counted(made.pages, 'page')}, {made.bytes / 1e6:.1f} MB; open {start}")
    hint_to_compact(store)
    return 0
