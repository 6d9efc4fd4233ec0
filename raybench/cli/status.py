"""`raybench status [JOB] --address URL`: prints the status of a submitted sweep."""

from __future__ import annotations

import argparse

from raybench.cli.job_arguments import add_address, add_job, as_row
from raybench.cli.output import add_format, print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_job(parser)
    add_address(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Print what the cluster reports about the job."""
    from raybench.execution.jobs import Jobs

    row = as_row(Jobs(args.address).find(args.job))
    if args.format == "json":
        print_json(row)
        return
    for name, value in row.items():
        print(f"{name:<8} {'-' if value is None else value}")
