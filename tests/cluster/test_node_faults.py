"""Nodes that vanish while cells are published: a raylet is killed, a network is cut, the GCS of a head restarts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from raybench.progress.journal import read_journal

from .resume import Sweep
from .test_jobs import _free_ports
from .test_nodes import Nodes, start

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
ADDRESSES = {"rbA": "10.77.0.1", "rbB": "10.77.0.2"}


def ended(sweep, code, rows):
    """The sweep ended with that code, with all rows, and no unit was done twice."""
    assert code == 0, sweep.output
    ok = Counter(entry["key"] for entry in read_journal(sweep.storage) if entry["status"] == "ok")
    assert set(ok.values()) == {1}
    assert [row["status"] for row in sweep.rows()] == ["ok"] * rows
    assert "Traceback" not in sweep.output


@pytest.fixture
def folder():
    one = Path(tempfile.mkdtemp(prefix="rb"))  # short: sockets live in there
    yield one
    for process in psutil.process_iter(["cmdline"]):
        if f"{one}/" in " ".join(process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(one, ignore_errors=True)


def until(condition, process, seconds=300):
    """Wait until `condition()` is true while `process` runs, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        assert process.poll() is None, "it ended before"
        time.sleep(0.005)
    raise AssertionError("it never came")


def test_a_raylet_is_killed_while_cells_are_published(folder, tmp_path):
    nodes = Nodes(folder)
    try:
        sweep, process = start(tmp_path, nodes, seeds="[0, 1, 2]")
        until(lambda: sweep.storage.list("results/cells"), process)
        raylets = [p for p in psutil.process_iter() if "raylet/raylet" in " ".join(p.cmdline() or ())]
        (victim,) = [p for p in raylets if p.environ().get("RAYBENCH_TEST_NODE") == "b"
                     and str(folder) in p.environ().get("TMPDIR", "")]  # fmt: skip
        before = len(sweep.storage.list("results/cells"))
        until(lambda: len(sweep.storage.list("results/cells")) > before, process)
        victim.send_signal(signal.SIGKILL)
        ended(sweep, process.wait(timeout=600), rows=12)
    finally:
        nodes.close()


class Namespaces:
    """Two network namespaces joined by a link; a head without CPUs in the first, a node with one in each."""

    def __init__(self, root: Path):
        self.root = root
        for name in ADDRESSES:
            _ip("netns", "add", name)
        _ip("link", "add", "rbv0", "type", "veth", "peer", "name", "rbv1")
        for (name, address), link in zip(ADDRESSES.items(), ("rbv0", "rbv1"), strict=True):
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            for device in (link, "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def ray(self, name: str, *options: str) -> None:
        """Start a node in one of them."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
        environment = os.environ | quick | {
            "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "RAYBENCH_TEST_NODE": name,
        }  # fmt: skip
        ray = [str(Path(sys.executable).parent / "ray"), "start", f"--node-ip-address={ADDRESSES[name]}"]
        more = ["--object-store-memory=80000000", "--disable-usage-stats"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*within(name), *ray, *options, *more], env=environment, check=True, timeout=200, **quiet)

    def close(self):
        """End what runs in them."""
        for name in ADDRESSES:
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in found.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.5)
            subprocess.run(["ip", "netns", "del", name], check=False)


def within(name):
    return ["ip", "netns", "exec", name]


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespaces(folder):
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    try:
        one = Namespaces(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield one
    one.close()


def test_a_network_is_cut_in_silence(namespaces, tmp_path, monkeypatch):
    """Neither side is told. What the node behind the cut has published stays; what it ran is run by the other one."""
    namespaces.ray("rbA", "--head", "--port=6397", "--num-cpus=1", "--include-dashboard=false",
                   f"--temp-dir={namespaces.root}/rbA")  # fmt: skip
    namespaces.ray("rbB", "--address=10.77.0.1:6397", "--num-cpus=1")
    sweep = Sweep(tmp_path, methods="[random, magnitude-l1, magnitude-l2, lamp]", epochs=8, seeds="[0, 1]",
                  RAY_AUTH_MODE="disabled")  # fmt: skip
    plain = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: plain([*within("rbA"), *words], **how))
    process = sweep.start("--address", "10.77.0.1:6397")
    monkeypatch.undo()

    def cell_on_b():
        running = [e for e in read_journal(sweep.storage) if e["kind"] == "cell" and e["status"] == "running"]
        return [e for e in running if _node(e["pid"]) == "rbB"]

    until(cell_on_b, process)
    _ip("-n", "rbA", "link", "set", "rbv0", "down")
    ended(sweep, process.wait(timeout=600), rows=8)


def _node(pid):
    try:
        return psutil.Process(pid).environ().get("RAYBENCH_TEST_NODE")
    except psutil.Error:
        return None


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server isn't installed")
def test_the_gcs_of_a_head_with_redis_restarts_and_the_run_goes_on(folder, tmp_path):
    port, redis_port = map(str, _free_ports(2))
    words = [sys.executable, str(HERE / "head_with_redis.py"), str(folder), port, redis_port]
    head = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = next(line for line in head.stdout if line.startswith("up")).split()[1]
        sweep = Sweep(tmp_path, methods="[random, magnitude-l1]", epochs=12, RAY_AUTH_MODE="disabled")
        process = sweep.start("--address", address)
        sweep.wait_for("base", process)
        head.stdin.write("kill\n")
        head.stdin.flush()
        assert next(line for line in head.stdout if line.startswith("again"))
        ended(sweep, process.wait(timeout=400), rows=2)
        assert len(sweep.executions()) == len([e for runs in sweep.executions().values() for e in runs]), "none again"
    finally:
        head.stdin.close()
        try:
            head.wait(timeout=60)
        except subprocess.TimeoutExpired:
            head.kill()
