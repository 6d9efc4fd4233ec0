"""Drivers that share nothing but a bucket: each cell is made once, by one of them."""

import os
from collections import Counter

import pytest

from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests import forked
from tests.s3 import served_bucket

DRIVERS = 4
SWEEP = """
name: shared
datasets: digits
models: test-convnet
methods: [random, magnitude-l1, magnitude-l2]
speedups: [2, 3]
seeds: [0, 1]
recipe:
  extends: quick
  base: {epochs: 1, warmup_epochs: 0}
  sparsify: {epochs: 1}
  finetune: {epochs: 1}
resources: {cpus: 1}
"""


@pytest.mark.timeout(400)
def test_four_processes_on_one_bucket_make_every_cell_once(tmp_path, monkeypatch):
    with served_bucket(monkeypatch, "shared") as url:
        drivers = []
        for name in "abcd"[:DRIVERS]:  # each with a folder, a cache and a temporary folder of its own
            folder = tmp_path / name
            folder.mkdir()
            (folder / "sweep.yaml").write_text(SWEEP)
            own = {"TMPDIR": str(folder), "RAYBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
            words = ["run", "sweep.yaml", "--local", "--storage", url]
            with (tmp_path / f"{name}.txt").open("w") as output:
                env = os.environ | own
                drivers.append(forked.start(forked.COMMAND, *words, output=output, env=env, cwd=folder))
        codes = [driver.wait(timeout=380) for driver in drivers]
        assert codes == [0] * DRIVERS, [file.read_text() for file in tmp_path.glob("?.txt")]
        storage = open_storage(url)
        assert Counter(Store(storage).statuses().values()) == {"ok": 12}
        entries = list(read_journal(storage))
        assert {entry["status"] for entry in entries} == {"ok"}
        assert Counter(Counter(entry["key"] for entry in entries).values()) == {1: len({e["key"] for e in entries})}
        assert len({entry["pid"] for entry in entries}) >= 2, "they shared the work"
        assert storage.list("leases") == []
