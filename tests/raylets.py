"""A Ray cluster of several raylets on this machine, each with a working, a temporary and a cache folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from tests.cluster.test_jobs import _free_ports

NODE = "RAYBENCH_TEST_NODE"  # environment variable of a node's processes: its name
HEAD = "head"
TRIES = 3  # on a loaded machine a start may time out


class Raylets:
    """A head without CPUs, and the nodes that are started; all below `root`, whose path must be short: sockets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (port,) = _free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._start(HEAD, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
                    f"--temp-dir={root / HEAD}")  # fmt: skip

    def start(self, name: str, *options: str) -> None:
        """Start one more node, with one CPU."""
        self._start(name, f"--address={self.address}", "--num-cpus=1", *options)

    def _start(self, name: str, *options: str) -> None:
        folder = self.root / name
        (folder / "work").mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        own = {"TMPDIR": str(folder), "RAYBENCH_CACHE": str(folder / "cache"), NODE: name}
        environment = {**kept, **own, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        command = [str(Path(sys.executable).parent / "ray"), "start", *options]
        command += ["--object-store-memory=80000000", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        said = folder / "start.txt"  # no pipe: what stays of the node would write into it after its end
        for _ in range(TRIES):
            with said.open("w") as output, suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    command,
                    env=environment,
                    cwd=folder / "work",
                    stdout=output,
                    stderr=output,
                    check=False,
                    timeout=120,
                )
                if done.returncode == 0:
                    return
        raise RuntimeError(f"node {name} did not start: {said.read_text()[-1000:]}")

    def bury(self, name: str) -> None:
        """End the log copier of a node whose raylet is dead: it would go on, and take a share of the machine."""
        for process in psutil.process_iter():
            if "log_monitor.py" in words_of(process) and self.node_of(process) == name:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def close(self) -> None:
        """Kill all of it, and remove its folders."""
        for process in psutil.process_iter():
            words = words_of(process)
            if f"{self.root}/" in words or (self.address in words and "ray" in words) or self.node_of(process):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def node_of(self, process: psutil.Process) -> str:
        """The name of the node to which a process of this cluster belongs; empty for other processes."""
        words = words_of(process)
        if self.address.rpartition(":")[2] not in words and "ray::" not in words:
            return ""
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            return ""
        return environment.get(NODE, "") if str(self.root) in environment.get("TMPDIR", "") else ""


def words_of(process: psutil.Process) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
