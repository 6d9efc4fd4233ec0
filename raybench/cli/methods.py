"""`raybench methods`: lists the methods of every kind with what they need and their defaults."""

from __future__ import annotations

import argparse
from typing import Any

from raybench import registry
from raybench.catalogue import NOUNS, Entry, evidence_kinds
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins

TITLES = {  # kind of registered name -> heading
    "importance": "importance criteria: decide which channels are kept; each takes repair=ridge, too",
    "selection": "trained selections: learn while they train which channels are kept, for one speed-up",
    "regularizer": "sparsity regularizers: train before pruning; combined with a criterion: magnitude-l2+group-norm",
    "token": "token reducers: remove tokens of vision transformers in place of channels; on boards of their own",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the methods."""
    load_plugins(args)
    rows = [_row(entry) for kind in registry.KINDS if kind.kind in TITLES for entry in kind.entries().values()]
    if args.format == "json":
        print_json(rows)
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
