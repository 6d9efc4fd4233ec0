"""`raybench jobs --address URL`: lists the sweeps submitted to a cluster, newest first."""

from __future__ import annotations

import argparse
import time

from raybench.cli.job_arguments import COLUMNS, add_address, as_row, table_row, wait_line
from raybench.cli.output import add_format, print_json, print_rows


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_address(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Print the jobs."""
    from raybench.execution.jobs import Jobs

    jobs = Jobs(args.address, wait_line).list()
    if args.format == "json":
        print_json([as_row(job) for job in jobs])
    elif not jobs:
        print("no jobs that raybench submitted")
    else:
        print_rows([table_row(job, time.time()) for job in jobs], COLUMNS)
