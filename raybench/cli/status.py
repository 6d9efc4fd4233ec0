"""`raybench status [JOB] --address URL`: prints the status of a submitted sweep."""

from __future__ import annotations

import argparse
import time

from raybench.cli.job_arguments import add_address, add_job, as_row, table_row, wait_line, why_ended
from raybench.cli.output import add_format, print_json
from raybench.errors import RaybenchError, printable
from raybench.progress.snapshot import StoreReader
from raybench.progress.view import headline
from raybench.storage.open import open_existing


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_job(parser)
    add_address(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Print what the cluster reports about the job."""
    from raybench.execution.jobs import Jobs

    job = Jobs(args.address, wait_line).find(args.job)
    if args.format == "json":
        print_json(as_row(job))
        return
    row = {**table_row(job, time.time()), "id": job.id, "cells": _cells(job.storage), "why": why_ended(job)}
    for name in ("id", "sweep", "status", "cells", "started", "took", "storage", "why"):
        if row[name] is not None:
            print(f"{name:<8} {row[name]}")


def _cells(url: str | None) -> str | None:
    """How many cells of the job's storage have ended, as far as it can be read from here."""
    if url is None:
        return None
    try:
        sweeps = StoreReader(open_existing(url)).read().sweeps
    except (RaybenchError, OSError) as error:
        return f"unknown: {url} can't be read from here: {printable(str(error)).partition('. ')[0]}"
    return "; ".join(headline(sweep) for sweep in sweeps) or "none yet"
