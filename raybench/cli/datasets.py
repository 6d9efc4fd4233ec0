"""`raybench datasets`: lists the registered datasets."""

from __future__ import annotations

import argparse

from raybench import registry
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the datasets."""
    load_plugins(args)
    names = ("task", "classes", "in_channels", "image_size", "licence")
    rows = [
        {"name": entry.name, **{name: entry.facts.get(name) for name in names}, "summary": entry.summary}
        for entry in registry.dataset.entries().values()
    ]
    if args.format == "json":
        print_json(rows)
    else:
        print_rows([row | {"classes": row["classes"] or None} for row in rows], ["name", *names])
