"""Drivers that share nothing but a bucket: each cell is made once, by one of them."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.open import open_storage
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
            command = [sys.executable, "-m", "raybench", "run", "sweep.yaml", "--local", "--storage", url]
            drivers.append(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env=os.environ | own,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
        outputs = [driver.communicate(timeout=380)[0] for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0] * DRIVERS, outputs
        storage = open_storage(url)
        assert Counter(Store(storage).statuses().values()) == {"ok": 12}
        entries = list(read_journal(storage))
        assert {entry["status"] for entry in entries} == {"ok"}
        assert Counter(Counter(entry["key"] for entry in entries).values()) == {1: len({e["key"] for e in entries})}
        assert len({entry["pid"] for entry in entries}) >= 2, "they shared the work"
        assert storage.list("leases") == []
