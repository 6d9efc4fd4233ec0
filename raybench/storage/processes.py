"""What Linux says of a process."""

from __future__ import annotations

from pathlib import Path


def stat_of(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the process's name: its state first. OSError where there is none."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_stopped(pid: int) -> bool:
    """Whether process `pid` is stopped, by a signal or a debugger."""
    try:
        return stat_of(pid)[0] in "Tt"
    except OSError:
        return False
