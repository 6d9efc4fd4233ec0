"""Provenance of a result row: versions of code and libraries, and the machine. Imports none of the libraries."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Provenance:
    """Conditions of one row; the fields are those of column `provenance`."""

    code_version: str | None
    commit: str | None  # None where the code isn't a git checkout
    dirty: bool | None  # uncommitted changes of tracked files
    python: str
    torch: str | None
    torchvision: str | None
    torch_pruning: str | None
    timm: str | None
    ultralytics: str | None
    ray: str | None
    cuda: str | None
    driver: str | None
    device_name: str | None
    host: str
    cpu: str
    cpu_capability: str | None
    cores: int
    threads: int | None
    started_at: str | None
    finished_at: str


def now() -> str:
    """The time in UTC as ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(
    *,
    started_at: str | None = None,
    device_name: str | None = None,
    cuda: str | None = None,
    driver: str | None = None,
    threads: int | None = None,
    cpu_capability: str | None = None,
) -> Provenance:
    """Provenance of this process. Facts that need torch (device, CUDA, threads) are passed in, so it isn't imported."""
    commit, dirty = _git()
    names = ("torch", "torchvision", "timm", "ultralytics", "ray")
    return Provenance(
        code_version=installed("raybench"),
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        **{name: installed(name) for name in names},
        torch_pruning=installed("torch-pruning"),
        cuda=cuda,
        driver=driver,
        device_name=device_name,
        host=socket.gethostname(),
        cpu=cpu_name(),
        cpu_capability=cpu_capability,
        cores=usable_cores(),
        threads=threads,
        started_at=started_at,
        finished_at=now(),
    )


@cache
def installed(package: str) -> str | None:
    """Installed version of `package`, None when it isn't installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    """Model name of the processor from /proc/cpuinfo, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def _git() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout that this package runs from, (None, None) outside a checkout."""
    if not (PACKAGE.parent / ".git").exists():
        return None, None
    try:
        commit = _run("rev-parse", "HEAD").strip()
        return commit, bool(_run("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


def _run(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def has_gpu() -> bool:
    """Whether the system lists an NVIDIA GPU that this process may use; asks neither torch nor the driver's tools."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(Path("/proc/driver/nvidia/gpus").glob("*"))
