"""`raybench jobs --address URL`: lists the sweeps submitted to a cluster, newest first."""

from __future__ import annotations

import argparse

from raybench.cli.job_arguments import COLUMNS, add_address, as_row
from raybench.cli.output import add_format, print_json, print_rows


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_address(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Print the jobs."""
    from raybench.execution.jobs import Jobs

    rows = [as_row(job) for job in Jobs(args.address).list()]
    if args.format == "json":
        print_json(rows)
    else:
        print_rows(rows, COLUMNS)
