"""A unit that kills its process: `prune` and `run --local` write its failed row, go on, and say so in a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import raybench
from raybench.results.layout import ATTEMPTS
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests import forked

NETS = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, deadly=False):
        super().__init__()
        self.deadly = deadly
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 10)
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and self.deadly:
            if self.deadly == "raise":
                raise ValueError("diverged")
            if self.deadly == "leave":
                os._exit(0)
            if self.deadly == "wait":
                Path("training").touch()
                time.sleep(60)
            os.kill(os.getpid(), self.deadly)
        return self.head(self.body(x).mean((2, 3)))

def fine(num_classes, **facts):
    return Net()
def raising(num_classes, **facts):
    return Net("raise")
def segv(num_classes, **facts):
    return Net(signal.SIGSEGV)
def leaving(num_classes, **facts):
    return Net("leave")
def out_of_memory(num_classes, **facts):
    return Net(signal.SIGKILL)
def waiting(num_classes, **facts):
    return Net("wait")
"""
RECIPE = "base: {epochs: 1, lr: 0.01}\nsparsify: {epochs: 1, lr: 0.01}\nfinetune: {epochs: 0, lr: 0.01}\n"


@pytest.fixture
def here(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def environment(here: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}


def prune(net: str) -> list[str]:
    how = ["--dataset", "digits", "--speedup", "2", "--recipe", "r.yaml", "-o", "out", "--format", "json"]
    return ["prune", "--model", f"nets:{net}", *how]


def test_prune_ends_with_a_row_that_names_the_signal(here):
    command = [sys.executable, "-m", "raybench", *prune("segv")]  # it forks only where nothing imported torch before
    done = subprocess.run(command, cwd=here, env=environment(here), capture_output=True, text=True, timeout=250)
    err = done.stderr
    assert done.returncode == 1, err
    (row,) = json.loads(done.stdout)
    assert (row["status"], row["stage"], row["error_type"]) == ("failed", "base", "WorkerDied")
    assert "died of SIGSEGV" in row["error_message"]
    assert "base nets:segv on digits: the process died of SIGSEGV" in err
    assert "Traceback" not in err


def test_a_local_run_goes_on_with_the_other_cells(here):
    models = "['nets:raising', 'nets:out_of_memory', 'nets:leaving', 'nets:fine']"
    axes = f"datasets: digits, models: {models}, methods: magnitude-l2, speedups: 2"
    (here / "s.yaml").write_text(f"{{name: s, {axes}, recipe: r.yaml}}")
    words = ["run", "s.yaml", "--local", "--storage", "out"]
    done = forked.run(forked.COMMAND, *words, timeout=250, cwd=here, env=environment(here))
    err = done.stderr
    assert done.returncode == 1, err
    assert "4 cells: 3 failed, 1 ok" in done.stdout
    assert "ValueError: diverged" in done.stdout
    store = Store(open_storage(str(here / "out")))
    assert sorted(store.statuses().values()) == ["failed", "failed", "failed", "ok"]
    attempts = Counter(row.trial_id for row in store.listing(ATTEMPTS))
    assert list(attempts.values()) == [1, 1, 1], "a failed cell was tried again after another one's crash"
    assert "died of SIGKILL" in err
    assert "the process ended with exit code 0 in stage base" in err, "os._exit(0) doesn't end the run"


def test_asked_to_end_it_ends_without_a_failed_row(here):
    with (here / "output.txt").open("w") as output:
        process = forked.start(forked.COMMAND, *prune("waiting"), output=output, cwd=here, env=environment(here))
    deadline = time.monotonic() + 120
    while not (here / "training").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # to the parent alone
    assert process.wait(timeout=60) == 130, (here / "output.txt").read_text()
    assert not list((here / "out").glob("results/attempts/*"))


DEADLY = """
import os, signal
from raybench.registry import importance
from raybench.methods.protocols import ElementwiseImportance

os.kill(os.getpid(), signal.SIGSEGV)

@importance("deadly")
class Deadly(ElementwiseImportance):
    needs = "weights"

    def saliency(self, layer):
        return layer.weight.abs()
"""


def test_a_plug_in_that_ends_its_process_in_its_import_fails_its_own_cells(here):
    (here / "deadly.py").write_text(DEADLY)
    axes = "datasets: digits, models: test-convnet, methods: [deadly, random], speedups: 2"
    (here / "s.yaml").write_text(f"{{name: s, {axes}, recipe: r.yaml}}")
    words = ["run", "s.yaml", "--local", "--storage", "out", "--plugin", "deadly.py"]
    done = forked.run(forked.COMMAND, *words, timeout=60, cwd=here, env=environment(here))
    assert done.returncode == 1, done.stderr
    rows = raybench.load_results(str(here / "out")).sort_values("status")
    assert list(rows["status"]) == ["failed", "ok"]
    assert (rows.iloc[0]["stage"], rows.iloc[0]["error_type"]) == ("select", "WorkerDied")
    assert rows.iloc[0]["error_message"] == "the process died of SIGSEGV (Segmentation fault)"


def test_an_exit_handler_that_ends_the_process_takes_nothing_from_a_run_that_is_over(here):
    handler = "import atexit\natexit.register(os.kill, os.getpid(), signal.SIGSEGV)"
    (here / "deadly.py").write_text(DEADLY.replace("os.kill(os.getpid(), signal.SIGSEGV)", handler))
    axes = "datasets: digits, models: test-convnet, methods: deadly, speedups: 2"
    (here / "s.yaml").write_text(f"{{name: s, {axes}, recipe: r.yaml}}")
    words = ["run", "s.yaml", "--local", "--storage", "out", "--plugin", "deadly.py"]
    done = forked.run(forked.COMMAND, *words, timeout=60, cwd=here, env=environment(here))
    assert done.returncode == 0, done.stderr
    assert "died" not in done.stderr
    assert "1 cell: 1 ok" in done.stdout
