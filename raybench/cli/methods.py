"""`raybench methods`: every importance criterion and regularizer, with what it needs and its defaults."""

from __future__ import annotations

import argparse

from raybench import registry
from raybench.catalogue import Entry
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the methods."""
    load_plugins(args)
    rows = [_row(entry) for kind in (registry.importance, registry.regularizer) for entry in kind.entries().values()]
    if args.format == "json":
        print_json(rows)
    else:
        shown = [row | {"defaults": ", ".join(f"{k}={v}" for k, v in row["defaults"].items()) or None} for row in rows]
        print_rows(shown, ["name", "kind", "needs", "requires", "defaults", "paper"])


def _row(entry: Entry) -> dict[str, object]:
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
