"""Shared by the verbs about submitted jobs: the options --address and JOB, and a job as a row."""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raybench.execution.jobs import Job

VARIABLES = ("RAYBENCH_ADDRESS", "RAY_API_SERVER_ADDRESS")  # in this order; the second is that of `ray job`
COLUMNS = ("id", "sweep", "status", "started", "seconds", "storage")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--address``."""
    given = next((value for name in VARIABLES if (value := os.environ.get(name))), None)
    parser.add_argument(
        "--address",
        required=given is None,
        default=dashboard(given) if given else None,
        type=dashboard,
        metavar="URL",
        help=f"dashboard of the cluster, HEAD:8265 (default: {' or '.join('$' + name for name in VARIABLES)}; its "
        "token is read from RAY_AUTH_TOKEN)",
    )


def dashboard(text: str) -> str:
    """The address of a dashboard, with http:// where it is only HOST:PORT.

    Example:
        >>> dashboard("head:8265"), dashboard("https://head/ray/")
        ('http://head:8265', 'https://head/ray')
    """
    return (text if "://" in text else f"http://{text}").rstrip("/")


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
