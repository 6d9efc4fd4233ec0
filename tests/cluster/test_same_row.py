"""One cell gives the same row to the bit on a Ray with 1 and with 4 CPUs, in this process, by `prune` and `show`."""

import os
import tempfile

import pytest
import torch

from raybench.cli.main import main
from raybench.execution.cluster import connected
from raybench.execution.run import run_sweep
from raybench.results.columns import TIMINGS
from raybench.results.store import Store
from raybench.storage.open import open_storage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "{epochs: 1, batch_size: 64, lr: 0.1}"
SWEEP = f"""
name: s
datasets: digits
models: test-convnet
methods: taylor
speedups: 2
threads: {len(os.sched_getaffinity(0))}  # what `prune` uses
resources: {{cpus: 1}}
recipe: {{name: short, base: {STAGE}, sparsify: {STAGE}, finetune: {STAGE}}}
"""
NOT_NUMBERS = {column.name for column in TIMINGS} | {"provenance", "config_id", "recipe", "trial", "row_sha256"}


def row(folder):
    """All that the one row says but durations and machine, as text of the stored numbers."""
    (found,) = Store(open_storage(str(folder))).table().to_pylist()
    return {n: repr(v) for n, v in found.items() if n not in NOT_NUMBERS and not n.startswith("seconds")}


@pytest.fixture
def own_locks(monkeypatch):
    """Locks of a machine of its own: no timing waits for whoever else computes here. The path is short, for sockets."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield


@pytest.mark.usefixtures("own_locks")
def test_a_cell_is_the_same_to_the_bit_wherever_it_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert torch, "it is imported here, so that runs of this process fork no other"
    (tmp_path / "short.yaml").write_text(f"base: {STAGE}\nsparsify: {STAGE}\nfinetune: {STAGE}\n")
    (tmp_path / "s.yaml").write_text(SWEEP)
    assert main(["run", "s.yaml", "--local", "--storage", "local"]) == 0
    command = ["prune", "--model", "test-convnet", "--dataset", "digits", "--method", "taylor", "--speedup", "2"]
    assert main([*command, "--recipe", "short.yaml", "-o", "pruned"]) == 0
    capsys.readouterr()
    assert main(["show", row("local")["trial_id"].strip("'"), "--results", "local", "--format", "yaml"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert main(["run", "shown.yaml", "--local", "--storage", "shown"]) == 0
    for cpus in (1, 4):  # one after the other: cells that are timed wait for each other
        with connected(None, cpus=cpus):
            run_sweep("s.yaml", f"ray{cpus}")
    first = row("local")
    assert all(first[name] != "None" for name in ("metric_base", "metric_final", "kept", "curve", "base_sha256"))
    for other in ("ray1", "ray4", "pruned", "shown"):
        assert row(other) == first, other
