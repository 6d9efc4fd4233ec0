"""raybench compare: our figures beside those that PruningBench published."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from raybench.cli.output import print_json
from raybench.cli.results import add_results, hint_to_compact, open_store, plain_warnings, without_pandas
from raybench.results.comparison import TOLERANCE, Compared, Comparison, boards, compare, is_comparable
from raybench.results.leaderboard import Leaderboard, Query
from raybench.results.published import SOURCE, STRATEGY
from raybench.results.store import csv_bytes
from raybench.results.text import lines

COLUMNS = ("method", "n", "ours", "theirs", "diff", "our Δ", "their Δ", "Δ diff", "inside", "kept", "their kept")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_results(parser)
    for name in ("model", "dataset", "protocol"):
        parser.add_argument(f"--{name}", help=f"only this {name}")
    told = "points that the two drops in accuracy may differ by (default: %(default)s)"
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="POINTS", help=told)
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Rank ours, match, print."""
    store = open_store(args.results)
    with plain_warnings(), without_pandas():
        found = Leaderboard.read(store, Query(model=args.model, dataset=args.dataset, protocol=args.protocol))
    compared = compare(found, args.tolerance)
    rows = [asdict(row) for row in compared.rows]
    if args.format == "json":
        print_json({"source": SOURCE, "tolerance": args.tolerance, "rows": rows})
    elif args.format == "csv":
        sys.stdout.write(csv_bytes(rows).decode())
    else:
        _print_tables(compared)
    if not rows:
        told = f"no finished {STRATEGY} cell of this store has a published figure; they are for {', '.join(boards())}"
        print(told, file=sys.stderr)
    hint_to_compact(store)
    return 0


def _print_tables(compared: Comparison) -> None:
    print(f"theirs: {SOURCE}; one run a cell")
    print(f"inside: our drop from base to final is within {compared.tolerance:g} points of theirs\n")
    tables: dict[str, list[Compared]] = {}
    for row in compared.rows:
        kind = f"protocol {row.protocol}" + ("" if is_comparable(row) else ": not the published rules")
        title = f"{row.model} on {row.dataset}, {row.speedup:g}x ({kind}, recipe {row.recipe})"
        tables.setdefault(f"{title}: base {row.base:.2f}, theirs {row.published_base:.2f} %", []).append(row)
    for title, rows in tables.items():
        print("\n".join([title, *lines([_shown(row) for row in rows], COLUMNS), *_notes(rows), ""]))
    for board, methods, correlation in compared.agreement:
        where = f"{board.model} on {board.dataset}, {board.speedup:g}x, {board.track}, protocol {board.protocol}"
        print(f"rank correlation {correlation:+.2f} over {methods} methods: {where}")
    within = sum(row.inside for row in compared.rows)
    print(f"{within} of {len(compared.rows)} cells are inside the tolerance")


def _shown(row: Compared) -> dict[str, Any]:
    spread = f"±{row.spread:.2f}" if row.spread is not None else ""
    return {
        "method": row.method + ("!" if row.anomaly else ""),
        "n": row.n,
        "ours": f"{row.final:.2f}{spread}",
        "theirs": f"{row.published_final:.2f}",
        "diff": f"{row.final - row.published_final:+.2f}",
        "our Δ": f"{row.delta:+.2f}",
        "their Δ": f"{row.published_delta:+.2f}",
        "Δ diff": f"{row.difference:+.2f}",
        "inside": "yes" if row.inside else "no",
        "kept": f"{row.kept:.1f}%",
        "their kept": f"{row.published_kept:.1f}%",
    }


def _notes(rows: list[Compared]) -> list[str]:
    return [f"! {row.method}: {row.anomaly}" for row in rows if row.anomaly]
