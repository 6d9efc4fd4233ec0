"""`raybench models`: every registered model; any `timm:NAME` and `module:function` is a model, too."""

from __future__ import annotations

import argparse
import re
from typing import Any

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
        for number, (summary, family) in enumerate(_families(rows).items()):
            if number:
                print()
            print_rows(sorted(family, key=_natural), ["name", "task", "norm", "pretrained"], title=summary)
        print("\nalso: timm:NAME, and module:function for a model of your own")


def _families(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Models that one function builds, under what its docstring says."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["summary"], []).append(row)
    return families


def _natural(row: dict[str, Any]) -> list[Any]:
    """resnet18 before resnet110: every other piece of the name is a number."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", row["name"])]
