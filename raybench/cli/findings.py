"""`raybench findings RESULTS`: what results say to the claims of PruningBench's paper, with the figures."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from raybench.cli.output import add_format, print_json
from raybench.cli.results import add_results, hint_to_compact, open_store
from raybench.reports.text import lines, wrapped

if TYPE_CHECKING:  # with pandas
    from raybench.reports.findings.answer import Answer


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    parser.add_argument("--figures", action="store_true", help="print the tables behind the sentences, too")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Compute the findings and print them."""
    from raybench.reports.findings.read import read_findings

    store = open_store(args.results)
    found = read_findings(store)
    if args.format == "json":
        print_json([asdict(one) for one in found])
    else:
        width = min(shutil.get_terminal_size((110, 24)).columns, 110)
        blocks = []
        for one in found:
            parts = (
                ("claim", one.claim),
                ("published rows", one.published.sentence),
                ("these results", one.ours.sentence),
            )
            text = [
                "\n".join(wrapped(f"{name}: {sentence}", width, "  ", "    "))  # names are never broken at hyphens
                for name, sentence in parts
            ]
            tables = [answer for answer in (one.published, one.ours) if args.figures and answer.rows]
            blocks.append("\n".join([one.title, *text, *(line for answer in tables for line in _table(answer))]))
        print("\n\n".join(blocks))
    hint_to_compact(store)
    return 0


def _table(answer: Answer) -> list[str]:
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    return ["", *(f"  {line}" for line in lines(rows, answer.columns))]
