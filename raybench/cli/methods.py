"""`raybench methods`: lists importance criteria and regularizers with what they need and their defaults."""

from __future__ import annotations

import argparse
from typing import Any

from raybench import registry
from raybench.catalogue import Entry, evidence_kinds
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the methods."""
    load_plugins(args)
    rows = [_row(entry) for kind in (registry.importance, registry.regularizer) for entry in kind.entries().values()]
    if args.format == "json":
        print_json(rows)
    else:
        _print("importance", "importance criteria: decide which channels are kept; each takes repair=ridge, too", rows)
        print()
        _print(
            "regularizer",
            "sparsity regularizers: train before pruning; combine with a criterion as in magnitude-l2+group-norm",
            rows,
        )


def _print(kind: str, title: str, rows: list[dict[str, Any]]) -> None:
    shown = [
        {
            "name": row["name"],
            "needs": ", ".join(filter(None, (_needs(row["needs"]), row["requires"]))),
            "defaults": ", ".join(f"{k}={v}" for k, v in row["defaults"].items()) or None,
            "paper": row["paper"],
        }
        for row in rows
        if row["kind"] == kind
    ]
    print_rows(shown, list(shown[0]), title=title)


def _needs(needs: str | tuple[str, ...] | None) -> str | None:
    return None if needs is None else " + ".join(evidence_kinds(needs))


def _row(entry: Entry) -> dict[str, Any]:
    facts = entry.facts
    return {
        "name": entry.name,
        "kind": entry.kind,
        "needs": facts.get("needs") if entry.kind == "importance" else "training",
        "requires": facts.get("requires"),
        "defaults": dict(entry.params),
        "paper": facts.get("paper") or None,
        "summary": entry.summary,
        "version": facts.get("version", 1),
        "file": str(entry.file),
    }
