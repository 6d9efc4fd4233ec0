"""Two nodes that share nothing but the storage, and drivers that share a cluster or a storage: every cell runs once.

Each raylet has a working folder, a temporary folder and a cache of its own, as two machines have.
"""

import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from raybench.storage.local import LocalStorage
from tests.raylets import NODE, Raylets

from .resume import Sweep

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
SWEEP = """
name: {name}
datasets: digits
models: test-convnet
methods: [random, magnitude-l1, magnitude-l2, lamp]
speedups: 2
seeds: {seeds}
base_seeds: per-seed
recipe:
  extends: quick
  base: {{epochs: 1, warmup_epochs: 0}}
  sparsify: {{epochs: 1}}
  finetune: {{epochs: {epochs}}}
resources: {{cpus: 1}}
"""
UNITS = 2 + 8 + 8  # of a sweep over two seeds: bases, selections, cells


class Nodes(Raylets):
    """A head without a CPU and two nodes with one each, all under folders of their own below `root`."""

    def __init__(self, root: Path):
        super().__init__(root)
        for name in ("a", "b"):
            self.start(name, f'--resources={{"{name}": 1}}')


@pytest.fixture(scope="module")
def nodes():
    one = Nodes(Path(tempfile.mkdtemp(prefix="rb")))  # short: sockets live in there
    try:
        yield one
    finally:
        one.close()


def start(folder, nodes, storage=None, seeds="[0, 1]", name="shared", epochs=3):
    """A `raybench run` on the cluster, from a working folder of its own."""
    sweep = Sweep(folder, RAY_AUTH_MODE="disabled")
    sweep.file.write_text(SWEEP.format(seeds=seeds, name=name, epochs=epochs))
    sweep.storage = storage or sweep.storage
    return sweep, sweep.start("--address", nodes.address)


def executions(sweep):
    """Every execution of the journal: what counts is what ran, not which rows there are."""
    return [entry for entries in sweep.executions().values() for entry in entries]


def each_ran_once(sweep, units):
    """Every unit has one execution, which ended well."""
    found = executions(sweep)
    assert {entry["status"] for entry in found} == {"ok"}
    assert Counter(entry["key"] for entry in found).most_common(1)[0][1] == 1
    assert len(found) == units
    return found


def home(pid):
    """The node whose raylet is the parent of process `pid`."""
    return psutil.Process(pid).environ().get(NODE)


def test_two_nodes_share_nothing_but_the_storage(nodes, tmp_path):
    # long enough that the second worker has started before the first has done all of it
    sweep, process = start(tmp_path, nodes, seeds="[0, 1, 2]", epochs=40)
    homes = {}
    while process.poll() is None:
        for entry in executions(sweep):
            if entry["kind"] == "cell" and entry["pid"] not in homes:
                homes[entry["pid"]] = home(entry["pid"])
        time.sleep(0.5)
    assert process.returncode == 0, sweep.output
    found = each_ran_once(sweep, 3 + 12 + 12)
    cells = Counter(homes[entry["pid"]] for entry in found if entry["kind"] == "cell")
    assert set(cells) == {"a", "b"}, cells
    assert len(sweep.rows()) == 12
    for folder in (nodes.root / "a/work", nodes.root / "b/work"):
        assert not list(folder.iterdir()), "nothing is left where a node was started"
    for key in sweep.storage.list("artifacts"):
        (weights,) = sweep.storage.fetch(key).glob("*.safetensors")
        with safe_open(weights, "pt") as tensors:
            assert tensors.keys()


def test_two_sweeps_at_once_on_one_cluster(nodes, tmp_path):
    runs = [start(tmp_path / name, nodes, name=name) for name in ("one", "two")]
    assert [process.wait(timeout=300) for _, process in runs] == [0, 0], [sweep.output for sweep, _ in runs]
    for sweep, _ in runs:
        each_ran_once(sweep, UNITS)
        assert len(sweep.rows()) == 8


def test_two_drivers_of_one_sweep_on_one_cluster_and_one_storage(nodes, tmp_path):
    """The same sweep, typed in two working folders, as on two machines: one runs it, the other sees it done."""
    storage = LocalStorage(tmp_path / "store")
    runs = [start(tmp_path / name, nodes, storage) for name in ("here", "there")]
    assert [process.wait(timeout=400) for _, process in runs] == [0, 0], [sweep.output for sweep, _ in runs]
    each_ran_once(runs[0][0], UNITS)
    assert len(runs[0][0].rows()) == 8
    assert storage.list("leases") == storage.list("checkpoints") == []


def test_more_than_any_node_of_a_cluster_that_does_not_grow_is_refused(nodes, tmp_path):
    sweep = Sweep(tmp_path, RAY_AUTH_MODE="disabled")
    sweep.file.write_text(SWEEP.format(seeds="[0]", name="greedy", epochs=1).replace("cpus: 1", "cpus: 1, gpus: 1"))
    assert sweep.finish("--address", nodes.address) == 2
    assert "found 1 CPU, 1 GPU a cell; expected what a node has" in sweep.output
    assert "Traceback" not in sweep.output
    assert sweep.storage.list("") == []


def test_a_second_cluster_on_the_same_storage(nodes, tmp_path):
    """Two clusters know nothing of each other: the storage alone decides who runs what."""
    storage = LocalStorage(tmp_path / "store")
    here, first = start(tmp_path / "here", nodes, storage)
    there = Sweep(tmp_path / "there")
    there.file.write_text(SWEEP.format(seeds="[0, 1]", name="shared", epochs=3))
    there.storage = storage
    second = there.start()  # a Ray of its own
    assert [first.wait(timeout=400), second.wait(timeout=400)] == [0, 0], here.output + there.output
    each_ran_once(here, UNITS)
    assert len(here.rows()) == 8
