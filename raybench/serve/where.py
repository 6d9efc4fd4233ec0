"""Where a queued sweep runs: in a process here, on a Ray cluster, or as a job of one; its commands and its end."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import IO

from raybench.errors import UserError
from raybench.serve.children import start
from raybench.serve.settings import Settings

JOB = re.compile(r"^(raybench-[0-9a-f]{16}-\d+): ", re.MULTILINE)
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})")


def is_dashboard(address: str | None) -> bool:
    """Whether an address is that of a cluster's dashboard, to which jobs are submitted.

    Example:
        >>> is_dashboard("http://head:8265"), is_dashboard("head:6379"), is_dashboard("auto"), is_dashboard(None)
        (True, False, False, False)
    """
    return (address or "").startswith(("http://", "https://"))


def check_address(address: str | None) -> None:
    """UserError for what is no address of a cluster. Whether one answers there shows when a run begins."""
    if address in (None, "auto") or is_dashboard(address) or HOST.fullmatch(address or ""):
        return
    raise UserError(f"--address {address}: expected auto, HOST:PORT of the head, or its dashboard's http://HEAD:8265")


def arguments(settings: Settings, sweep: Path, folder: Path | None) -> list[str]:
    """The verb and its options that run a sweep to its end.

    Args:
        settings: of the server.
        sweep: its file.
        folder: from which its own modules are imported; None without any.
    """
    common = [str(sweep), "--storage", settings.storage]
    if settings.address is None:
        return ["run", *common, "--local"]
    if not is_dashboard(settings.address):
        return ["run", *common, "--address", settings.address]
    mounted = [word for place in settings.allowed for word in ("--mounted", str(place))]
    modules = ["--working-dir", str(folder)] if folder else []
    return ["submit", *common, "--address", settings.address, *mounted, *modules, "--wait"]


def job_of(printed: str) -> str | None:
    """The job that `raybench submit` named last; None before it did.

    Example:
        >>> job_of("attempt 1\\nraybench-0123456789abcdef-2: submitted\\n1/2 cells\\n")
        'raybench-0123456789abcdef-2'
    """
    return (JOB.findall(printed) or [None])[-1]


def stop_job(settings: Settings, printed: str, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes] | None:
    """Begin to stop the job that a run has printed; None where it is no job, or none yet."""
    job = job_of(printed) if is_dashboard(settings.address) else None
    if job is None or settings.address is None:
        return None
    return start(["stop", job, "--address", settings.address], folder, log)
