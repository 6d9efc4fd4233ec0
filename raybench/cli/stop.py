"""`raybench stop [JOB] --address URL`: stops a submitted sweep. Submitting it again continues it."""

from __future__ import annotations

import argparse

from raybench.cli.job_arguments import add_address, add_job, wait_line

AS = {"SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "been stopped"}  # how a job ended -> after "it has"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_job(parser)
    add_address(parser)


def run(args: argparse.Namespace) -> None:
    """Stop the job and wait until it has ended."""
    from raybench.execution.jobs import Jobs

    jobs = Jobs(args.address, wait_line)
    job = jobs.find(args.job)
    if job.is_over:
        print(f"{job.id}: nothing to stop, it has {AS[job.status]}")
        return
    print(f"{job.id}: {jobs.stop(job.id).status.lower()}; its finished cells are in {job.storage}")
