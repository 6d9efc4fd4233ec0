"""`raybench compare RESULTS`: our figures beside those of PruningBench and of the literature."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raybench.cli.output import add_format, print_json, say
from raybench.cli.results import add_results, hint_to_compact, open_store
from raybench.errors import counted
from raybench.reports.comparison import TOLERANCE, Compared, Comparison, boards, compare
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.literature import NEAR, LiteratureMatch
from raybench.reports.published import SOURCE, STRATEGY
from raybench.reports.text import lines, signed
from raybench.results.encoding import csv_bytes

COLUMNS = (
    "method",
    "n",
    "ours",
    "theirs",
    "diff",
    "our Δ",
    "their Δ",
    "Δ diff",
    "inside",
    "kept",
    "their kept",
    "rules",
)
LITERATURE = (
    "method", "strategy", "speedup", "n", "ours", "our Δ", "authors' name", "year", "their speedup", "their base",
    "theirs", "their Δ", "printed Δ", "Δ diff", "selection", "rules",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    for name in ("model", "dataset", "protocol"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only this {name}")
    message = "allowed difference between the two drops in accuracy, in points (default: %(default)s)"
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="POINTS", help=message)
    add_format(parser, ("table", "json", "csv"))


def run(args: argparse.Namespace) -> int:
    """Rank our results, match them with the published ones, print both."""
    store = open_store(args.results)
    found = Leaderboard.read(store, Query(model=args.model, dataset=args.dataset, protocol=args.protocol))
    compared = compare(found, args.tolerance)
    rows = [asdict(row) for row in compared.rows]
    if args.format == "json":
        found_too = [asdict(match) for match in compared.literature]
        print_json({"source": SOURCE, "tolerance": args.tolerance, "rows": rows, "literature": found_too})
    elif args.format == "csv":
        sys.stdout.write(csv_bytes(rows).decode())
    else:
        if rows:
            _print_tables(compared)
        _print_literature(compared.literature)
    if not rows:
        message = (
            f"no finished {STRATEGY} cell here has a published figure; there are figures for {', '.join(boards())}"
        )
        say(message, file=sys.stderr)
    hint_to_compact(store)
    return 0


def _print_tables(compared: Comparison) -> None:
    say(f"theirs: {SOURCE}; one run per cell")
    points = "point" if compared.tolerance == 1 else "points"
    say(f"inside: our drop from base to final is within {compared.tolerance:g} {points} of theirs\n")
    tables: dict[str, list[Compared]] = {}
    for row in compared.rows:
        title = f"{row.model} on {row.dataset}, {row.speedup:g}x (protocol {row.protocol}, recipe {row.recipe})"
        tables.setdefault(f"{title}: base {row.base:.2f}, theirs {row.published_base:.2f} %", []).append(row)
    for title, rows in tables.items():
        say(title)
        print("\n".join(lines([_shown(row) for row in rows], COLUMNS)))
        say("\n".join([*_notes(rows), ""]))
    for board, methods, correlation in compared.agreement:
        where = f"{board.model} on {board.dataset}, {board.speedup:g}x, {board.track}, protocol {board.protocol}"
        say(f"rank correlation {signed(correlation)} over {counted(methods, 'method')}: {where}")
    within = sum(row.inside for row in compared.rows)
    verb = "is" if len(compared.rows) == 1 else "are"
    say(f"{within} of {counted(len(compared.rows), 'cell')} {verb} inside the tolerance")


def _shown(row: Compared) -> dict[str, Any]:
    spread = f"±{row.spread:.2f}" if row.spread is not None else ""
    return {
        "method": row.method + ("!" if row.anomaly else ""),
        "n": row.n,
        "ours": f"{row.final:.2f}{spread}",
        "theirs": f"{row.published_final:.2f}",
        "diff": signed(row.final - row.published_final),
        "our Δ": signed(row.delta),
        "their Δ": signed(row.published_delta),
        "Δ diff": signed(row.difference),
        "inside": "yes" if row.inside else "no",
        "kept": f"{row.kept:.1f}%",
        "their kept": f"{row.published_kept:.1f}%",
        "rules": row.rules,
    }


def _notes(rows: list[Compared]) -> list[str]:
    notes = [f"! {row.method}: {row.anomaly}" for row in rows if row.anomaly]
    others = [f"{row.method}: {row.besides_authors}" for row in rows if row.besides_authors]
    return [*notes, *(["otherwise than the method's paper:"] if others else []), *(f"  {line}" for line in others)]


def _print_literature(matches: Sequence[LiteratureMatch]) -> None:
    """One table for each dataset and model, with the sources of its rows."""
    tables: dict[str, list[LiteratureMatch]] = {}
    for match in matches:
        made = f"protocol {match.protocol}, recipe {match.recipe}"
        title = f"literature: {match.model} on {match.dataset} ({made}), speed-ups within {NEAR:.0%}"
        tables.setdefault(title, []).append(match)
    for title, found in tables.items():
        notes = {f"! {m.theirs.authors_method}: {m.theirs.anomaly}": None for m in found if m.theirs.anomaly}
        notes |= {f"{m.theirs.authors_method}: {m.theirs.note}": None for m in found if m.theirs.note}
        sources = {f"source: {m.theirs.source}": None for m in found}
        say(f"\n{title}")
        print("\n".join(lines([_of_literature(m) for m in found], LITERATURE)))
        say("\n".join([*notes, *sources]))


def _of_literature(match: LiteratureMatch) -> dict[str, Any]:
    theirs = match.theirs
    return {
        "method": match.method,
        "strategy": match.strategy,
        "speedup": f"{match.speedup:.2f}",
        "n": match.n,
        "ours": f"{match.final:.2f}" + (f"±{match.spread:.2f}" if match.spread is not None else ""),
        "our Δ": signed(match.delta),
        "authors' name": theirs.authors_method + ("!" if theirs.anomaly else ""),
        "year": theirs.year,
        "their speedup": f"{theirs.speedup:.2f} ({theirs.speedup_of})",
        "their base": _points(theirs.base),
        "theirs": _points(theirs.pruned),
        "their Δ": _points(theirs.difference, sign=True),
        "printed Δ": _points(theirs.printed_difference, sign=True),
        "Δ diff": _points(match.difference, sign=True),
        "selection": theirs.selection,
        "rules": match.rules,
    }


def _points(value: float | None, *, sign: bool = False) -> str | None:
    if value is None:
        return None
    return signed(value) if sign else f"{value:.2f}"
