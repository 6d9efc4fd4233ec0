"""`raybench logs [JOB] --address URL`: prints the output of a submitted sweep."""

from __future__ import annotations

import argparse

from raybench.cli.job_arguments import add_address, add_job, wait_line


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_job(parser)
    add_address(parser)
    parser.add_argument("--follow", action="store_true", help="print new output until the job ends")


def run(args: argparse.Namespace) -> None:
    """Print the output."""
    from raybench.execution.jobs import Jobs

    jobs = Jobs(args.address, wait_line)
    job = jobs.find(args.job)
    for text in jobs.follow(job.id) if args.follow else [jobs.logs(job.id)]:
        print(text, end="", flush=True)
