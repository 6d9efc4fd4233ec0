"""`raybench methods`: lists the methods of every kind with what they need and their defaults."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from raybench import registry
from raybench.catalogue import NOUNS, Entry, evidence_kinds
from raybench.cli.output import add_format, print_json, print_rows, terminal_width
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.errors import UserError, unknown
from raybench.reports.text import wrapped

WIDEST = 120  # columns of a pipe

TITLES = {  # kind of registered name -> heading
    "importance": "importance criteria: decide which channels are kept; each takes repair=ridge, too",
    "selection": "trained selections: learn while they train which channels are kept, for one speed-up",
    "regularizer": "sparsity regularizers: train before pruning; combined with a criterion: magnitude-l2+group-norm",
    "token": "token reducers: remove tokens of vision transformers in place of channels; on boards of their own",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this method alone, with all that is known of it")
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the methods, or print one; two of one name are both printed."""
    load_plugins(args)
    rows = [_row(entry) for kind in registry.KINDS if kind.kind in TITLES for entry in kind.entries().values()]
    if args.name is not None:
        known = {row["name"] for row in rows}
        rows = [row for row in rows if row["name"] == args.name]
        if not rows:
            raise UserError(unknown("method", args.name, known))
    if args.format == "json":
        print_json(rows)
    elif args.name is not None:
        print("\n\n".join("\n".join(_about(row)) for row in rows))
    else:
        for place, (kind, title) in enumerate(TITLES.items()):
            if place:
                print()
            _print(kind, title, rows)


def _print(kind: str, title: str, rows: list[dict[str, Any]]) -> None:
    shown = [
        {
            "name": row["name"],
            "needs": ", ".join(filter(None, (_needs(row["needs"]), row["requires"]))),
            "defaults": ", ".join(f"{k}={v}" for k, v in row["defaults"].items()) or None,
            "paper": row["paper"],
        }
        for row in rows
        if row["kind"] == NOUNS[kind]
    ]
    if shown:
        print_rows(shown, list(shown[0]), title=title)


def _about(row: dict[str, Any]) -> Iterator[str]:
    """All that is known of one method, a line for each."""
    width = terminal_width() or WIDEST
    yield from wrapped(f"{row['name']}: {row['kind']}. {row['summary'].replace('`', '')}", width)
    first = "".join(f"({name}={value})" for name, value in list(row["defaults"].items())[:1])
    before = "magnitude-l2+" if row["kind"] == NOUNS["regularizer"] else ""
    facts = {
        "typed": f"{before}{row['name']}{first}",
        "needs": ", ".join(filter(None, (_needs(row["needs"]), row["requires"]))),
        "defaults": ", ".join(f"{k}={v}" for k, v in row["defaults"].items()),
        "paper": row["paper"], "version": str(row["version"]), "file": row["file"],
    }  # fmt: skip
    for name, text in facts.items():
        yield from wrapped(text or "-", width, f"  {name:<10}", " " * 12)


def _needs(needs: str | tuple[str, ...] | None) -> str | None:
    return None if needs is None else " + ".join(evidence_kinds(needs))


def _row(entry: Entry) -> dict[str, Any]:
    facts = entry.facts
    return {
        "name": entry.name,
        "kind": entry.noun,
        "needs": "training" if entry.kind == "regularizer" else facts.get("needs"),
        "requires": facts.get("requires"),
        "defaults": dict(entry.params),
        "paper": facts.get("paper") or None,
        "summary": entry.summary,
        "version": facts.get("version", 1),
        "file": str(entry.file),
    }
