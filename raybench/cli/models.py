"""`raybench models`: lists the registered models; `timm:NAME` and `module:function` are models, too."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from raybench import registry
from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_plugin, load_plugins


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
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
        print("\nalso: timm:NAME for a model of timm, and module:function for your own")


def _families(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Models grouped by the summary of the function that builds them."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["summary"], []).append(row)
    return families


def _natural(row: Mapping[str, Any]) -> list[Any]:
    """Sort key that puts resnet18 before resnet110: texts and numbers of the name in turn."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", row["name"])]
