"""Cells that two processes train together, on a real Ray, with gloo: the numbers of one process, and one row."""

from types import SimpleNamespace

import pytest

from raybench.execution.run import run_sweep
from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.open import open_storage

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(900)]

STAGE = "{epochs: 2, batch_size: 64, lr: 0.05, augment: [shift]}"
SWEEP = """
name: s
datasets: digits
models: {models}
methods: {methods}
speedups: 2
threads: 1
resources: {resources}
recipe: {{name: short, base: {stage}, sparsify: {stage}, finetune: {stage}}}
"""
# the second process dies once in the second epoch, or raises an error there every time
PLUGIN = """
import os, signal
from dataclasses import dataclass, field
from pathlib import Path
import torch.distributed as dist
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer

@dataclass
class Faulty(Regularizer):
    mark: str = ""
    _epoch: int = field(default=1, init=False)

    def bind(self, model, groups):
        pass

    def add_gradients(self):
        if self._epoch == 2 and dist.get_rank() == 1:
            self.fail()

    def end_epoch(self):
        self._epoch += 1

    def state_dict(self):
        return {"epoch": self._epoch}

    def load_state_dict(self, state):
        self._epoch = state["epoch"]

@regularizer("deadly")
@dataclass
class Deadly(Faulty):
    def fail(self):
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)

@regularizer("failing")
@dataclass
class Failing(Faulty):
    def fail(self):
        raise ValueError("no such luck")
"""
# most by which a column may differ from that of one process: rounding grows from step to step, how fast depends on the
# processor, and one test image is 0.28 points
FIGURES = {"metric_base": 0.3, "metric_pruned": 0.3, "metric_final": 0.3, "loss_final": 2e-3, "speedup": 1e-9}


def run(folder, resources, methods="taylor", models="test-convnet", **options):
    """How a run ended, its rows, and its storage."""
    (folder / "s.yaml").write_text(SWEEP.format(models=models, methods=methods, resources=resources, stage=STAGE))
    storage = open_storage(str(folder / "results"))
    end = run_sweep(folder / "s.yaml", storage.url, **options)
    rows = Store(storage).table().to_pylist()
    assert len(rows) == len(end.statuses)
    return SimpleNamespace(end=end, rows=rows, storage=storage)


@pytest.fixture(scope="module")
def mixed(ray_here, tmp_path_factory):
    """A cell of one process, and one of two: Tune keeps the first one's process, and the team needs its CPU."""
    team = "{cpus: 1, models: {test-convnet: {cpus: 2, processes: 2}}}"
    return run(tmp_path_factory.mktemp("mixed"), team, models="[test-vit, test-convnet]")


def test_two_processes_give_the_numbers_of_one_and_one_row(mixed, tmp_path):
    alone = run(tmp_path, "{cpus: 2}", local=True)
    (found,), (expected,) = [row for row in mixed.rows if row["model"] == "test-convnet"], alone.rows
    assert (found["status"], found["processes"], expected["processes"]) == ("ok", 2, 1)
    assert found["trial_id"] != expected["trial_id"]
    for name, most in FIGURES.items():
        assert found[name] == pytest.approx(expected[name], abs=most, rel=0), name
    assert found["kept"] == expected["kept"]
    for one, other in zip(found["curve"], expected["curve"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
    storage = mixed.storage
    assert len(storage.list("results")) == len(mixed.rows)
    assert storage.list("checkpoints") == storage.list("leases") == []
    entries = [one for one in read_journal(storage) if "test-convnet" in one["label"]]
    assert sorted(one["kind"] for one in entries) == ["base", "cell", "select"], "one process of the two ran each unit"
    assert len({one["pid"] for one in entries}) == 1, "base, selection and cell had the same team"


def test_a_team_does_not_wait_for_what_an_idle_process_holds(mixed):
    assert set(mixed.end.statuses.values()) == {"ok"}
    assert {row["model"]: row["processes"] for row in mixed.rows} == {"test-vit": 1, "test-convnet": 2}


@pytest.mark.slow
def test_a_process_that_dies_costs_an_epoch_and_one_that_fails_is_the_cause_in_the_row(tmp_path):
    plugin = tmp_path / "faulty.py"
    plugin.write_text(PLUGIN)
    methods = "[{name: magnitude-l2+deadly, regularizer_params: {mark: %s}}, magnitude-l2+failing]" % (
        tmp_path / "died"
    )
    ran = run(tmp_path, "{cpus: 2, processes: 2}", methods, plugins=[plugin])
    rows, storage = {row["method"]: row for row in ran.rows}, ran.storage
    died, failed = rows["magnitude-l2+deadly"], rows["magnitude-l2+failing"]
    assert died["status"] == "ok"
    executions = list(read_journal(storage, died["sparsify_key"]))
    resumed = [one["stages"][-1].get("resumed_from") for one in executions]
    assert resumed == [None, 1], "it went on after the first epoch"
    assert (failed["status"], failed["stage"], failed["error_type"]) == ("failed", "sparsify", "ValueError")
    assert failed["error_message"] == "process 2 of 2: ValueError: no such luck"
    assert len(storage.list("results/attempts")) == 1
