"""`raybench models`: every registered model; any `timm:NAME` and `module:function` is a model, too."""

from __future__ import annotations

import argparse

from raybench import registry
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_plugin(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """List the models."""
    load_plugins(args)
    rows = [
        {
            "name": entry.name,
            "task": entry.facts.get("task", "classification"),
            "norm": entry.facts.get("norm"),
            "attention": entry.facts.get("attention", False),
            "pretrained": entry.facts.get("pretrained"),
            "summary": entry.summary,
            "file": str(entry.file),
        }
        for entry in registry.model.entries().values()
    ]
    if args.format == "json":
        print_json(rows)
    else:
        shown = [row | {"attention": "yes" if row["attention"] else "no"} for row in rows]
        print_rows(shown, ["name", "task", "norm", "attention", "pretrained", "summary"])
        print("also: timm:NAME, and module:function for a model of your own")
