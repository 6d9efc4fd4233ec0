"""NVIDIA MPS for cells that share a GPU: their kernels run at the same time, not one process after the other.

Each device has one daemon, which a keeper process starts and watches (`mps_keeper`). Processes that use the device
register by their ids; when the last one has ended, however it ended, the keeper stops the daemon and ends, too. Written
without a GPU at hand: the tests use a stand-in for `nvidia-cuda-mps-control`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from raybench.errors import UserError
from raybench.pipeline.exclusive import lock_by

PROGRAM = "nvidia-cuda-mps-control"
PIPE = "CUDA_MPS_PIPE_DIRECTORY"  # by which a process finds its daemon; CUDA reads it when it starts
VISIBLE = "CUDA_VISIBLE_DEVICES"
START_S = 30.0  # until the daemon must have started
DOOR, USERS, KEEPER, STATE, RUNNING = "door", "users", "keeper", "state", "running"
GONE = "-"

Spawn = Callable[[list[str]], int]  # starts a process that outlives this one; returns its id


@dataclass(frozen=True)
class Joined:
    """Whether this process is under MPS, with a line for the row."""

    active: bool
    note: str


def join(
    wanted: str, environment: MutableMapping[str, str] | None = None, *, root: Path | None = None,
    spawn: Spawn | None = None,
) -> Joined:  # fmt: skip
    """Bring this process under the daemon of its device, before it uses CUDA; starts the daemon where there is none.

    Args:
        wanted: `on`, `auto` or `off` of a sweep's resources.
        environment: of this process; it is changed.
        root: folder of all daemons.
        spawn: starts the keeper.

    Raises:
        UserError: `on`, and MPS can't be used.
    """
    variables = os.environ if environment is None else environment
    if wanted == "off":
        return Joined(False, "")
    if variables.get(PIPE):  # somebody else's daemon, which is left as it is
        return Joined(True, "under the MPS daemon of this machine")
    why = _impossible(variables) or _started(variables, root or _root(), spawn or _spawn)
    if not why:
        return Joined(True, "under MPS")
    if wanted == "on":
        raise UserError(f"resources: mps: found on, but {why}; set `mps: auto` to go on without it")
    return Joined(False, f"no MPS: {why}")


def folder_of(device: str, root: Path) -> Path:
    """The folder of a device's daemon; `device` as CUDA_VISIBLE_DEVICES has it."""
    return root / f"device-{device}"


def register(folder: Path, pid: int) -> None:
    """Note that process `pid` uses the device."""
    (folder / USERS).mkdir(parents=True, exist_ok=True)
    (folder / USERS / str(pid)).write_text(started_at(pid))


def users(folder: Path) -> list[int]:
    """The registered processes that are alive; the notes of others are removed."""
    alive = []
    for note in sorted((folder / USERS).glob("*")):
        with suppress(OSError, ValueError):
            if note.read_text() == started_at(int(note.name)) != GONE:
                alive.append(int(note.name))
            else:
                note.unlink()
    return alive


def started_at(pid: int) -> str:
    """When a process started, in ticks of the kernel, so that a later one with its id isn't taken for it; else GONE."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return GONE
    return GONE if fields[0] in "ZX" else fields[19]


@contextmanager
def door(folder: Path, within_s: float = float("inf")) -> Iterator[None]:
    """Context in which nobody else registers, starts a daemon or stops one. OSError if others take over `within_s`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + within_s
    with (folder / DOOR).open("a") as lock:
        if not lock_by(lock.fileno(), deadline):  # a process that is stopped holds it for ever
            raise OSError(f"another process holds {folder / DOOR} for over {within_s:g} s")
        yield


def _impossible(variables: MutableMapping[str, str]) -> str:
    """Why MPS can't be tried; empty where it can."""
    if not sys.platform.startswith("linux"):
        return "MPS is there on Linux only"
    if not shutil.which(PROGRAM, path=variables.get("PATH")):
        return f"found no {PROGRAM}"
    devices = [part for part in variables.get(VISIBLE, "").split(",") if part.strip()]
    if len(devices) != 1:
        return f"found {len(devices)} devices in {VISIBLE}, expected the one that cells share"
    return "MIG devices have no MPS of their own here" if devices[0].startswith("MIG-") else ""


def _started(variables: MutableMapping[str, str], root: Path, spawn: Spawn) -> str:
    """Register at the device's daemon, starting it where none runs; why that failed, empty if it didn't."""
    device = variables[VISIBLE].strip()
    folder = folder_of(device, root)
    try:
        with door(folder, START_S):
            register(folder, os.getpid())
            if not _runs(folder):
                (folder / STATE).write_text("")
                keeper = spawn([sys.executable, "-m", "raybench.execution.mps_keeper", str(folder), device])
                (folder / KEEPER).write_text(f"{keeper} {started_at(keeper)}")
        state = _awaited(folder)
    except OSError as error:
        return str(error)
    if state != RUNNING:
        (folder / USERS / str(os.getpid())).unlink(missing_ok=True)
        return state
    variables[PIPE] = str(folder / "pipe")
    if not device.startswith("GPU-"):
        variables[VISIBLE] = "0"  # the daemon sees this device alone, and clients count by what it sees
    return ""


def _runs(folder: Path) -> bool:
    """Whether a living keeper watches a daemon here, or starts one."""
    with suppress(OSError, ValueError):
        keeper, since = (folder / KEEPER).read_text().split()
        return since == started_at(int(keeper)) != GONE
    return False


def _awaited(folder: Path) -> str:
    """What the keeper says of its daemon, after waiting for it."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            if state := (folder / STATE).read_text():
                return state
        time.sleep(0.05)
    return f"its daemon did not start within {START_S:g} s"


def _spawn(command: list[str]) -> int:
    """By a shell that ends at once: Ray ends the children of a worker with it, and others may use the daemon then."""
    quiet = '"$@" </dev/null >/dev/null 2>&1 & echo $!'
    shell = subprocess.run(
        ["sh", "-c", quiet, "sh", *command], stdout=subprocess.PIPE, check=True, start_new_session=True
    )
    return int(shell.stdout)


def _root() -> Path:
    return Path(gettempdir()) / f"raybench-mps-{os.getuid()}"
