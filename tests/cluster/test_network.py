"""Ray started by `run`: ports on loopback, a folder of its own, a token that is nowhere, and no helpers without use."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]
LOOK = """
import os, sys, psutil
from pathlib import Path
from raybench.execution.cluster import connected

with connected(None, cpus=1):
    import ray
    pid = ray.get(ray.remote(num_cpus=1)(lambda: os.getpid()).remote())  # a worker
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert pid in [process.pid for process in processes]
    token, folder = os.environ["RAY_AUTH_TOKEN"], Path(ray._private.worker._global_node.get_session_dir_path())
    for process in processes:
        print("process", process.name(), *(Path(word).name for word in process.cmdline() if word.endswith(".py")))
        for connection in process.net_connections(kind="inet"):
            if connection.status == "LISTEN":
                print("port", connection.laddr.ip, process.name())
        if token in " ".join(process.cmdline()) or token in process.name():
            print("token in the title of", process.name())
    for path in folder.rglob("*"):
        if path.is_file() and token.encode() in path.read_bytes():
            print("token in", path)
    for above in (folder.parents[0], folder.parents[1]):
        print("folder", oct(above.stat().st_mode & 0o777), above)
"""


def test_ports_folders_token_and_processes(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TMPDIR"))}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=kept, cwd=tmp_path, text=True, capture_output=True, timeout=190
    )
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    ports = [word for word in words if word[0] == "port"]
    assert len(ports) >= 5
    assert {address.removeprefix("::ffff:") for _, address, _ in ports} == {"127.0.0.1"}, ports
    assert [line for line in done.stdout.splitlines() if line.startswith("token")] == []
    started = {name for word in words if word[0] == "process" for name in word[1:]}
    assert started >= {"raylet", "gcs_server"}
    assert not started & {"dashboard.py", "monitor.py", "log_monitor.py"}
    assert [word[1] for word in words if word[0] == "folder"][-1] == "0o700", done.stdout  # Ray opens the inner ones
