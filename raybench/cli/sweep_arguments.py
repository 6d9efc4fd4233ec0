"""Shared by the verbs that read a sweep file: the SWEEP argument, the option --plugin, and a check of names."""

from __future__ import annotations

import argparse

from raybench import registry
from raybench.errors import UserError, unknown
from raybench.sweep.modules import module_hint
from raybench.sweep.reader import load_sweep
from raybench.sweep.sweep import Sweep

TRACKERS = ("wandb", "mlflow", "tensorboard")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the argument SWEEP and the option ``--plugin``."""
    parser.add_argument("sweep", metavar="SWEEP", help="sweep file (YAML), or the name of one that comes with raybench")
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


def check_name(option: str, kind: registry.Registry | registry.Either, name: str, more: str = "") -> None:
    """UserError that names `option` for an unknown `name`, with `more` at its end; `module:function` passes."""
    if ":" not in name and name not in kind.entries():
        hint = module_hint(name) if kind is registry.model else None
        raise UserError(f"{option}: {hint or unknown(kind.noun, name, kind.entries())}{more}")


def read_sweep(args: argparse.Namespace) -> Sweep:
    """Load the plug-ins, then read the sweep file."""
    load_plugins(args)
    return load_sweep(args.sweep)
