"""Processes that run as `python -c CODE ...` would, forked from one that has imported torch and other large libraries.

A new interpreter imports them for some five seconds of the processor, longer than most tests compute. The fork has a
session, environment, folder and output of its own, has imported nothing of raybench, and is killed, interrupted and
waited for like any other process. Import errors and interrupts while libraries are imported need a new interpreter.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO

LARGE = (
    "torch", "torch.func", "torchvision", "timm", "torch_pruning", "pandas", "pyarrow.dataset", "pyarrow.parquet",
    "scipy.stats", "sklearn.model_selection", "pydantic.root_model", "rich.console", "yaml",
)  # fmt: skip
REQUEST = 1 << 20  # bytes of a request at most: its environment is in it
# The command `raybench`. Where torch isn't imported yet, `run --local` and `prune` work in a child process. So they do
# here: it is as safe, as the fork has one thread and torch has computed nothing in it.
COMMAND = """
import sys
from raybench.execution import child, supervised
can_fork = child.can_fork
def can_fork_with_torch(url):
    torch = sys.modules.pop("torch")
    try:
        return can_fork(url)
    finally:
        sys.modules["torch"] = torch
supervised.can_fork = can_fork_with_torch
from raybench.cli.main import main
sys.exit(main())
"""


class Forked:
    """A process, with the part of Popen that tests use."""

    def __init__(self, pid: int, ends: socket.socket) -> None:
        self.pid, self.returncode, self._ends = pid, None, ends

    def poll(self) -> int | None:
        """The exit code, -N after signal N; None while it runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; TimeoutExpired after `timeout` seconds."""
        if self._read(timeout) is None:
            raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _read(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ends], [], [], timeout)[0]:
            self.returncode = _received(self._ends)
            self._ends.close()
        return self.returncode


class Server:
    """The process that forks; started at the first use, it ends with this one."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def start(self, code: str, words: list[str], env: Mapping[str, str], cwd: str, files: list[int]) -> Forked:
        """Run `code` in a fork whose standard output and error are `files`."""
        here, there = socket.socketpair()
        with there:
            request = json.dumps([code, words, dict(env), cwd]).encode()
            size, fds = len(request).to_bytes(4), array.array("i", [*files, there.fileno()])
            self._connection.sendmsg([size], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            self._connection.sendall(request)
            return Forked(_received(here), here)


_servers: list[Server] = []


def start(
    code: str, *words: object, output: IO[str], errors: IO[str] | None = None,
    env: Mapping[str, str] | None = None, cwd: Path | str | None = None,
) -> Forked:  # fmt: skip
    """Begin `python -c code words...` in a session of its own; without `errors` both outputs go to `output`."""
    if not _servers:
        _servers.append(Server())
    files = [output.fileno(), (errors or output).fileno()]
    env = os.environ if env is None else env
    return _servers[0].start(code, [*map(str, words)], env, str(cwd or os.getcwd()), files)


def run(code: str, *words: object, timeout: float = 200, **how: object) -> subprocess.CompletedProcess[str]:
    """Run `python -c code words...` to its end, and return what it printed."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start(code, *words, output=output, errors=errors, **how)
        try:
            code_ = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(words, code_, output.read(), errors.read())


def run_pair(module: str, folder: Path, **own: str) -> None:
    """Run `module`.run(rank, 2, folder) in two processes, with `own` in their environment."""
    root, files = Path(__file__).parents[1], [folder / f"output-{rank}.txt" for rank in range(2)]
    code = f"import sys; from {module} import run; run(int(sys.argv[1]), 2, sys.argv[2])"
    processes = []
    for rank, file in enumerate(files):
        with file.open("w") as output:
            processes.append(start(code, rank, folder, output=output, env=os.environ | own, cwd=root))
    try:
        deadline = time.monotonic() + 100
        while any(process.poll() is None for process in processes) and not any(p.returncode for p in processes):
            assert time.monotonic() < deadline, "they wait for each other"
            time.sleep(0.02)
        assert not any(process.returncode for process in processes), "\n".join(file.read_text() for file in files)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)


def _send(there: socket.socket, number: int) -> None:
    there.sendall(number.to_bytes(8, signed=True))


def _received(here: socket.socket) -> int:
    answer = here.recv(8)
    if not answer:
        raise RuntimeError("the process that forks has ended")
    return int.from_bytes(answer, signed=True)


def _serve(connection: socket.socket) -> None:
    """Fork for each request, and tell who asked the pid and, later, the exit code."""
    for name in LARGE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    woken, wake = socket.socketpair()
    for one in (woken, wake):
        one.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    while True:
        ready = select.select([connection, woken], [], [])[0]
        if woken in ready:
            woken.recv(1 << 10)
            for pid in list(children):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    with children.pop(pid) as asked, contextlib.suppress(OSError):  # who asked may have lost interest
                        _send(asked, os.waitstatus_to_exitcode(status))
        if connection in ready:
            size, fds, *_ = socket.recv_fds(connection, 4, 3)
            if not size:
                return
            request = bytearray()
            while len(request) < int.from_bytes(size):
                request += connection.recv(REQUEST)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (connection, woken, wake, *children.values()):
                    one.close()
                _be(*json.loads(request), fds)
            children[pid] = socket.socket(fileno=fds.pop())
            _send(children[pid], pid)
            for fd in fds:
                os.close(fd)


def _be(code: str, words: list[str], env: dict[str, str], cwd: str, fds: list[int]) -> None:
    """Become the process that was asked for. Never returns."""
    os.setsid()
    for target, fd in enumerate(fds, 1):
        if target < 3:
            os.dup2(fd, target)
        os.close(fd)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv, sys.path[0] = ["-c", *words], ""
    for folder in reversed(env.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(1, folder)
    end = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        end = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        end = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(end)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the tests
    _serve(socket.socket(fileno=int(sys.argv[1])))
