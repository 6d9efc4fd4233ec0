"""`raybench validate SWEEP`: every mistake of a sweep file at once, exit code 2; or that it is sound."""

from __future__ import annotations

import argparse

from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.spec.resolve import resolve


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_sweep(parser)


def run(args: argparse.Namespace) -> None:
    """Read and resolve the sweep; its mistakes are raised."""
    sweep = read_sweep(args)
    print(f"{args.sweep}: sound, {len(resolve(sweep))} cells")
