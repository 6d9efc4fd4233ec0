"""Shared by the verbs about submitted jobs: the options --address and JOB, and a job as a row."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from raybench.progress.words import coarse, duration

if TYPE_CHECKING:
    from raybench.execution.jobs import Job

EXITS = {  # exit codes of a driver
    -9: "its driver was killed (SIGKILL, or memory ran out)", 137: "its driver was killed (SIGKILL, or memory ran out)",
    -15: "its driver was ended (SIGTERM)", 143: "its driver was ended (SIGTERM)", 130: "its driver was interrupted",
    1: "some of its cells failed", 2: "its driver refused the sweep", 3: "versions here and there differ",
}  # fmt: skip
VARIABLES = ("RAYBENCH_ADDRESS", "RAY_API_SERVER_ADDRESS")  # in this order; the second is that of `ray job`
COLUMNS = ("id", "sweep", "status", "started", "took", "storage")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--address``."""
    given = _given_address()
    parser.add_argument(
        "--address",
        required=given is None,
        default=dashboard(given) if given else None,
        type=dashboard,
        metavar="URL",
        help=f"dashboard of the cluster, HEAD:8265 (default: {' or '.join('$' + name for name in VARIABLES)}; its "
        "token is read from RAY_AUTH_TOKEN)",
    )


def _given_address() -> str | None:
    return next((value for name in VARIABLES if (value := os.environ.get(name))), None)


def address_option(address: str) -> str:
    """`` --address URL`` for a command that is printed; empty where a variable names that address already."""
    given = _given_address()
    return "" if given and dashboard(given) == address else f" --address {shlex.quote(address)}"


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


def table_row(job: Job, now: float) -> dict[str, Any]:
    """One job for a table of 80 columns: the start of its id, when it started, how long it took or takes."""
    took = duration((job.ended or now) - job.started) if job.started else None
    return {
        "id": job.id.removeprefix("raybench-"),
        "sweep": job.sweep,
        "status": job.status.lower(),
        "started": f"{coarse(now - job.started)} ago" if job.started else None,
        "took": took,
        "storage": job.storage,
    }


def why_ended(job: Job) -> str | None:
    """Why a job didn't succeed, in one sentence instead of Ray's log; None for one that runs or succeeded."""
    if job.status not in ("FAILED", "STOPPED"):
        return None
    again = "submit it again to continue"
    if job.status == "STOPPED":
        return f"it was stopped; {again}"
    code = re.search(r"exit code (-?\d+)", job.message or "")
    first = (job.message or "no reason is known").partition("\n")[0].partition(", last available logs")[0].rstrip(".")
    reason = first if code is None else EXITS.get(int(code[1]), f"its driver ended with exit code {code[1]}")
    return f"{reason}; raybench logs {job.id.removeprefix('raybench-')} shows its output; {again}"


def wait_line(text: str) -> None:
    """Print on standard error why a call takes long."""
    print(text, file=sys.stderr)


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
