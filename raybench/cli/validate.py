"""`raybench validate SWEEP`: checks a sweep file and lists all its mistakes (exit code 2)."""

from __future__ import annotations

import argparse

from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import counted
from raybench.sweep.resolve import resolve


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_sweep(parser)


def run(args: argparse.Namespace) -> None:
    """Read and resolve the sweep. Raises its mistakes, all at once."""
    sweep = read_sweep(args)
    print(f"{args.sweep}: valid, {counted(len(resolve(sweep)), 'cell')}")
