"""`raybench schema`: prints the JSON Schema of sweep files, for editors (`# yaml-language-server: $schema=...`)."""

from __future__ import annotations

import argparse

from raybench.cli.output import print_json
from raybench.cli.sweep_arguments import add_plugin, load_plugins
from raybench.sweep.schema import json_schema


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_plugin(parser)


def run(args: argparse.Namespace) -> None:
    """Print the schema."""
    load_plugins(args)
    print_json(json_schema())
