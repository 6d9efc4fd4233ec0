"""Twenty real cells that each ask for a GPU, on a cluster that grows from no GPU node to four and shrinks again.

Ray's own autoscaler, with the nodes that Ray fakes for its tests: a raylet each, on this machine. The GPU is a
resource and no device: cells run on the CPU.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from raybench.results.store import Store
from raybench.storage.local import LocalStorage

from .resume import Sweep, assert_no_finished_work_ran_again
from .test_jobs import _free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
MAX_NODES, CELLS = 4, 20
NODE = {"CPU": 1, "GPU": 1, "object_store_memory": 80 << 20}
SWEEP = """
name: scaled
datasets: digits
models: test-convnet
methods: [random, magnitude-l1, magnitude-l2, lamp]
speedups: 2
seeds: [0, 1, 2, 3, 4]
recipe: {extends: quick, base: {epochs: 1, warmup_epochs: 0}, sparsify: {epochs: 1}, finetune: {epochs: 1}}
resources: {cpus: 1, gpus: 1}
"""
WATCH = """
import json, sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while True:
    nodes = [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]]
    print(json.dumps([time.time(), sum(gpus > 0 for gpus in nodes)]), flush=True)
    time.sleep(0.5)
"""


class Cluster:
    """`ray start --head` with a fake provider; `sizes` is a list of (seconds since 1970, GPU nodes)."""

    def __init__(self, maximum=MAX_NODES):
        self.folder = Path(tempfile.mkdtemp(prefix="rb"))  # short: sockets live in there
        self.sizes = []
        (port,) = _free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "disabled",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.folder),  # a node lock of its own: timings do not wait for others on this machine
        }
        config = self.folder / "autoscaler.json"
        config.write_text(json.dumps(_config(self.address, maximum)))
        options = [f"--autoscaling-config={config}", f"--port={port}", f"--temp-dir={self.folder}", "--num-cpus=0"]
        options += ["--include-dashboard=false", "--object-store-memory=80000000", "--disable-usage-stats"]
        command = [Path(sys.executable).parent / "ray", "start", "--head", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, env=self.environment, check=True, timeout=120, **quiet)
        watching = [sys.executable, "-c", WATCH, self.address]
        deadline = time.monotonic() + 120
        while not self.sizes:  # the watcher ends until the head answers
            assert time.monotonic() < deadline, "no head"
            environment = {k: v for k, v in self.environment.items() if "NODE_ID" not in k and "INSTANCE" not in k}
            self.watcher = subprocess.Popen(
                watching, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._note(self.watcher.stdout.readline())
        threading.Thread(target=lambda: [self._note(line) for line in self.watcher.stdout], daemon=True).start()

    def _note(self, line):
        if line:
            self.sizes.append(tuple(json.loads(line)))

    def wait_until(self, gpus, patience):
        """Wait for so many GPU nodes."""
        deadline = time.monotonic() + patience
        while self.sizes[-1][1] != gpus:
            assert time.monotonic() < deadline, self.sizes[-20:]
            time.sleep(0.5)

    def close(self):
        """End what was started with our folder on its command line: the head's processes and those of its nodes."""
        self.watcher.kill()
        self.watcher.wait()
        ours = [p for p in psutil.process_iter(["cmdline"]) if str(self.folder) in " ".join(p.info["cmdline"] or ())]
        for process in ours:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)


def _config(address, maximum):
    """Ray's autoscaler's, with the provider that starts raylets here."""
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    provider = {
        "type": "external", "module": module, "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID,
        "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
        "launch_multiple": True,
    }  # fmt: skip
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": NODE, "node_config": {}, "min_workers": 0, "max_workers": maximum},
    }
    lists = ("setup_commands", "initialization_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    return {
        "cluster_name": "fake", "max_workers": maximum, "idle_timeout_minutes": 0.1, "upscaling_speed": 4.0,
        "provider": provider, "available_node_types": types, "head_node_type": "ray.head.default", "auth": {},
        "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, "rsync_filter": [],
        **{one: [] for one in lists},
    }  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    one = Cluster()
    try:
        yield one
    finally:
        one.close()


def run(cluster, folder, text):
    """`raybench run` of a sweep file on the cluster."""
    sweep = Sweep(folder, RAY_AUTH_MODE="disabled")
    sweep.file.write_text(text)
    return sweep, sweep.start("--address", cluster.address)


def test_a_request_that_no_node_can_ever_satisfy_is_told_at_once(cluster, tmp_path):
    """Two CPUs a cell: the cluster may grow to four, and no node of it has two."""
    sweep, process = run(cluster, tmp_path, SWEEP.replace("cpus: 1", "cpus: 2"))
    assert process.wait(timeout=90) == 2
    assert "found 2 CPU, 1 GPU a cell; expected what a node has" in sweep.output
    assert "no kind of node that it may start has more" in sweep.output
    assert "Traceback" not in sweep.output
    assert not sweep.storage.list("")
    assert max(gpus for _, gpus in cluster.sizes) == 0


def test_nodes_come_cells_finish_nodes_go(cluster, tmp_path):
    sweep, process = run(cluster, tmp_path, SWEEP)
    before = len(cluster.sizes)
    assert process.wait(timeout=600) == 0, sweep.output
    ended = len(cluster.sizes)
    assert set(Store(LocalStorage(sweep.storage.root)).statuses().values()) == {"ok"}
    assert len(sweep.rows()) == CELLS
    assert_no_finished_work_ran_again(sweep)
    during = [gpus for _, gpus in cluster.sizes[before:ended]]
    assert during[0] == 0, "nothing was there before cells waited"
    assert max(during) == MAX_NODES, during
    cluster.wait_until(0, patience=120)
    after = [gpus for _, gpus in cluster.sizes[ended:]]
    assert after == sorted(after, reverse=True), "none came back after the last cell"
    print(f"\nGPU nodes over time: {_steps(cluster.sizes[before:])}")


def _steps(sizes):
    """`0 s: 0, 21 s: 4, ...`: only changes."""
    first, steps = sizes[0][0], []
    for (_, earlier), (moment, gpus) in zip([(0, None), *sizes], sizes, strict=False):
        if gpus != earlier:
            steps.append(f"{moment - first:.0f} s: {gpus}")
    return ", ".join(steps)
