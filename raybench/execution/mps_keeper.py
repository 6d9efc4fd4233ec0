"""Keeper of one MPS daemon: starts it, and stops it when no process uses its device any more.

`python -m raybench.execution.mps_keeper FOLDER DEVICE`; `mps.join` starts it. The daemon is its child and dies with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from raybench.execution import mps

POLL_S = 1.0  # between looks at who is there
STARTED_S = 1.0  # a daemon that lives so long has started
STOP_S = 10.0  # for the daemon to end after `quit`
PR_SET_PDEATHSIG = 1


def keep(folder: Path, device: str) -> None:
    """Run the daemon of `device` until nobody uses it."""
    for name in ("pipe", "log"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    own = {mps.VISIBLE: device, mps.PIPE: str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    environment = os.environ | own
    try:
        daemon = subprocess.Popen(
            [mps.PROGRAM, "-f"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, preexec_fn=_die_with_parent,
        )  # fmt: skip
    except OSError as error:
        _say(folder, f"{mps.PROGRAM} can't be started: {error.strerror}")
        return
    try:
        _watch(folder, daemon, environment)
    finally:
        _stop(daemon, environment)


def _watch(folder: Path, daemon: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """Say how the daemon is, and return when it has ended or nobody is left."""
    deadline = time.monotonic() + STARTED_S
    while daemon.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if daemon.poll() is None:
        _say(folder, mps.RUNNING)
    while daemon.poll() is None:
        time.sleep(POLL_S)
        with mps.door(folder):  # whoever comes after it finds no keeper, and starts another one
            if not mps.users(folder):
                _stop(daemon, environment)
                (folder / mps.KEEPER).unlink(missing_ok=True)
                return
    assert daemon.stderr is not None
    words = daemon.stderr.read().decode(errors="replace").strip().splitlines()
    _say(folder, f"{mps.PROGRAM} ended ({daemon.returncode})" + (f": {words[-1]}" if words else ""))


def _stop(daemon: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """End the daemon by its own command; by signals if it doesn't hear."""
    if daemon.poll() is None:
        try:
            subprocess.run([mps.PROGRAM], input=b"quit\n", env=environment, timeout=STOP_S, check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            daemon.wait(STOP_S)
        except (OSError, subprocess.TimeoutExpired):
            daemon.kill()
    daemon.wait()


def _say(folder: Path, state: str) -> None:
    with mps.door(folder):
        (folder / mps.STATE).write_text(state)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2])
