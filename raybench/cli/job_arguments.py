"""What the verbs that talk to a cluster's jobs have in common."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raybench.execution.jobs import Job

COLUMNS = ("id", "sweep", "status", "started", "seconds", "storage")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Give a verb its ``--address``."""
    parser.add_argument(
        "--address",
        required=True,
        metavar="URL",
        help="the cluster's dashboard, http://HEAD:8265; token: RAY_AUTH_TOKEN",
    )


def add_job(parser: argparse.ArgumentParser) -> None:
    """Give a verb its optional JOB."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="a job's id or its beginning (default: the newest)")


def as_row(job: Job) -> dict[str, Any]:
    """One job as plain data; `seconds` is how long it ran, or has run by now."""
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
