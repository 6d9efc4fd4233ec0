"""Experiment trackers, with fakes of wandb's and MLflow's public functions, and TensorBoard's own files."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution.driver import Watcher
from raybench.execution.trackers import TRACKERS, tracked
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import row, trial


class Said(Watcher):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, run) -> None:
        self.events.append("begin")

    def ended(self, unit, outcome) -> None:
        self.events.append(f"ended {unit.kind}")

    def say(self, text) -> None:
        self.events.append(text)


@pytest.fixture
def ended(tmp_path):
    """Tells a watcher that a base, a failed and a finished cell have ended."""
    storage, one = open_storage(tmp_path / "results"), trial()
    Store(storage).publish(row(one))

    def tell(watcher: Watcher) -> None:
        watcher.begin(SimpleNamespace(storage=storage, sweep="mine"))
        for kind, status in (("base", "ok"), ("cell", "failed"), ("cell", "ok")):
            watcher.ended(Unit(one.trial_id, kind, (one,), ()), Outcome(one.trial_id, kind, status))

    return tell


def test_wandb_gets_a_run_a_cell_with_its_curve(ended, monkeypatch) -> None:
    calls: list[tuple] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), summary={}, finish=lambda: calls.append(("finish",))
    )
    module = ModuleType("wandb")
    module.init = lambda **given: calls.append(("init", given)) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    inner = Said()
    ended(tracked("wandb", inner))
    assert inner.events == ["begin", "ended base", "ended cell", "ended cell"]
    assert [call[0] for call in calls] == ["init", 0, 1, "finish"]
    given = calls[0][1]
    assert (given["project"], given["id"]) == ("mine", trial().trial_id)
    assert given["config"]["recipe.finetune.lr"] == 0.1
    assert calls[1][1] == {"finetune/loss": 1.0, "finetune/metric": 91.0, "finetune/lr": 0.1}
    assert run.summary["metric_final"] == 97.0


def test_mlflow_gets_settings_figures_and_steps(ended, monkeypatch) -> None:
    calls: list[tuple] = []
    module = ModuleType("mlflow")
    module.set_experiment = lambda name: calls.append(("experiment", name))
    module.start_run = lambda run_name, tags: calls.append(("run", run_name)) or nullcontext()
    module.log_params = lambda values: calls.append(("params", values))
    module.log_metrics = lambda values, step=None: calls.append(("metrics", step, values))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    ended(tracked("mlflow", Said()))
    assert [call[0] for call in calls] == ["experiment", "run", "params", "metrics", "metrics", "metrics"]
    assert calls[1][1] == "cifar-resnet20 magnitude-l2 2x protected-global seed 0"
    assert [call[1] for call in calls[3:]] == [0, 1, None]
    assert calls[-1][2]["speedup"] == 2.0


def test_tensorboard_writes_one_folder_a_cell(ended, tmp_path) -> None:
    ended(tracked("tensorboard", Said()))
    (folder,) = (tmp_path / "results/tensorboard").iterdir()
    assert folder.name == trial().trial_id
    (events,) = folder.iterdir()
    content = events.read_bytes()
    assert b"finetune/metric" in content
    assert b"figures/metric_final" in content


def test_a_tracker_that_fails_ends_alone(ended, monkeypatch) -> None:
    module = ModuleType("wandb")
    module.init = lambda **given: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", module)
    inner = Said()
    watcher = tracked("wandb", inner)
    ended(watcher)
    ended(watcher)
    endings = [event for event in inner.events if "tracking ends" in event]
    assert endings[0] == "tracking ends: ZeroDivisionError: division by zero; the results are in the storage"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_extra_is_named_before_anything_runs(name, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"--track {name}: needs {name}: pip install 'raybench\\[{name}\\]'"):
        tracked(name, Watcher())
    monkeypatch.chdir(tmp_path)
    assert main(["run", "quickstart", "--local", "--track", name]) == 2
    assert not list(tmp_path.iterdir())
    assert set(TRACKERS) == {"wandb", "mlflow", "tensorboard"}
