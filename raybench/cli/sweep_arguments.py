"""What every verb that takes a sweep file has in common: the file, and plug-ins to look for names in."""

from __future__ import annotations

import argparse

from raybench import registry
from raybench.spec.reader import load_sweep
from raybench.spec.sweep import Sweep


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Give a verb its SWEEP and ``--plugin``."""
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep file (YAML)")
    add_plugin(parser)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Give a verb its ``--plugin``."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="look for methods, models, datasets in FILE too"
    )


def load_plugins(args: argparse.Namespace) -> None:
    """Make the names in ``--plugin`` files known; UserError for a file that registers nothing."""
    for file in args.plugin:
        registry.add_plugin(file)


def read_sweep(args: argparse.Namespace) -> Sweep:
    """The sweep that was typed, its plug-ins known."""
    load_plugins(args)
    return load_sweep(args.sweep)
