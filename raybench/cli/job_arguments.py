"""Shared by the verbs about submitted jobs: the options --address and JOB, and a job as a row."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raybench.execution.jobs import Job

COLUMNS = ("id", "sweep", "status", "started", "seconds", "storage")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--address``."""
    parser.add_argument(
        "--address",
        required=True,
        metavar="URL",
        help="dashboard of the cluster, http://HEAD:8265 (its token is read from RAY_AUTH_TOKEN)",
    )


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add the optional argument JOB."""
    parser.add_argument(
        "job", nargs="?", metavar="JOB", help="id of a job, or its first characters (default: the newest job)"
    )


def as_row(job: Job) -> dict[str, Any]:
    """One job as plain data; `seconds` is how long it has run."""
    end = job.ended or time.time()
    return {
        "id": job.id,
        "sweep": job.sweep,
        "status": job.status,
        "started": datetime.fromtimestamp(job.started, UTC).isoformat(timespec="seconds") if job.started else None,
        "seconds": round(end - job.started, 1) if job.started else None,
        "storage": job.storage,
        "message": job.message,
    }
