"""Shared by the verbs that read a sweep file: the SWEEP argument and the option --plugin."""

from __future__ import annotations

import argparse

from raybench import registry
from raybench.sweep.reader import load_sweep
from raybench.sweep.sweep import Sweep

TRACKERS = ("wandb", "mlflow", "tensorboard")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the argument SWEEP and the option ``--plugin``."""
    parser.add_argument("sweep", metavar="SWEEP", help="sweep file (YAML)")
    add_plugin(parser)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--plugin``."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file that registers more methods, models or datasets; may be repeated",
    )


def add_track(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--track``."""
    text = "send each finished cell with its curve to an experiment tracker, as a run: %(choices)s (an extra each)"
    parser.add_argument("--track", choices=TRACKERS, help=text)


def load_plugins(args: argparse.Namespace) -> None:
    """Register the names in the ``--plugin`` files; UserError for a file that registers nothing."""
    for file in args.plugin:
        registry.add_plugin(file)


def read_sweep(args: argparse.Namespace) -> Sweep:
    """Load the plug-ins, then read the sweep file."""
    load_plugins(args)
    return load_sweep(args.sweep)
