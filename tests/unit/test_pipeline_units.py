"""Units of a plan one by one, in this process: what each returns, writes down and stores, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raybench import load_pruned, registry
from raybench.errors import StageLost, UserError
from raybench.pipeline import base, cache
from raybench.pipeline.check import check_input
from raybench.pipeline.context import StageContext
from raybench.pipeline.exclusive import SHARED, Machine
from raybench.pipeline.unit import run_unit
from raybench.plan.plan import plan
from raybench.plan.records import Unit
from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.hashing import file_sha256
from raybench.storage.leases import Lease
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.tasks.open import open_task
from tests.unit.sweeps import written

CPU = torch.device("cpu")
SWEEP = """
name: s
datasets: digits
models: [{{name: test-convnet, params: {{width: 12}}}}]
methods: {methods}
speedups: 1.15
only: [conv3]
recipe:
  base: {{epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.004}}
  sparsify: {{epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.001}}
  finetune: {{epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.003}}
  calibration_images: 32
  calibration_batch: 16
"""
METHOD = "taylor+group-norm"


def units_of(folder: Path, methods: str = METHOD, **changed: str) -> tuple[Unit, ...]:
    text = SWEEP.format(methods=methods)
    for old, new in changed.items():
        text = text.replace(old, new)
    return plan(load_sweep(written(folder, text))).units


class Walk:
    """The units of one cell, run in order, with what they announced."""

    def __init__(self, folder: Path, **changed: str) -> None:
        self.units = units_of(folder, **changed)
        self.storage = open_storage(folder / "store")
        self.context = StageContext(self.storage, machine=Machine(folder / "a" / "b"))
        self.stages = {unit.kind: list[str]() for unit in self.units}
        self.outcomes = {u.kind: run_unit(u, self.context, self.stages[u.kind].append) for u in self.units}

    @property
    def row(self) -> dict:
        (row,) = Store(self.storage).table().to_pylist()
        return row

    def entries(self, kind: str) -> list[dict]:
        """The journal of the unit of that kind."""
        return [entry for unit in self.units if unit.kind == kind for entry in read_journal(self.storage, unit.key)]


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Walk:
    return Walk(tmp_path_factory.mktemp("walk"))


STAGES = {
    "base": ["base"],
    "sparsify": ["sparsify"],
    "select": ["select"],
    "cell": ["surgery", "finetune", "measure", "publish"],
}


def test_each_unit_says_how_it_ended(walk: Walk) -> None:
    assert walk.stages == STAGES
    assert [unit.kind for unit in walk.units] == list(STAGES)
    for unit in walk.units:
        end = walk.outcomes[unit.kind]
        said = (end.key, end.kind, end.status, end.stage, end.error_type, end.traceback_path, end.damage)
        assert said == (unit.key, unit.kind, "ok", STAGES[unit.kind][-1], "", "", ())
        (entry,) = walk.entries(unit.kind)
        assert (entry["key"], entry["status"], entry["summary"]) == (unit.key, "ok", end.summary)
        assert [stage["stage"] for stage in entry["stages"]] == STAGES[unit.kind]
        assert end.seconds >= sum(stage["seconds"] for stage in entry["stages"]) > 0
    resumed = [walk.entries("cell")[0]["stages"][1], walk.entries("sparsify")[0]["stages"][0]]
    assert [stage["resumed_from"] for stage in resumed] == [0, 0]
    assert walk.entries("select")[0]["stages"][0]["speedups"] == [1.15]
    assert walk.storage.list("leases/") == walk.storage.list("checkpoints/") == []


def test_summaries_are_the_figures_of_the_row(walk: Walk) -> None:
    found, row = {kind: end.summary for kind, end in walk.outcomes.items()}, walk.row
    assert found["base"]["top1"] == row["metric_base"]
    assert found["sparsify"] == {"epochs": 1}
    assert found["select"] == {"1.15x": row["speedup"]}
    names = ("metric_final", "metric_pruned", "metric_base", "speedup")
    assert found["cell"] == {name: row[name] for name in names}


def test_the_row_is_what_its_stages_say(walk: Walk) -> None:
    row, trial = walk.row, walk.units[-1].trials[0]
    stored = {key: cache.result(cache.read(walk.context, key, "x")) for key in (trial.base_key, trial.sparsify_key)}
    dense, sparse = stored.values()
    cut = json.loads(cache.content_of(cache.read(walk.context, trial.select_key, "x"), "cut.json"))
    selected = cache.result(cache.read(walk.context, trial.select_key, "x"))
    curve = [(epoch["stage"], epoch["metric"]) for epoch in row["curve"]]
    assert curve[:2] == [("base", dense["curve"][0]["top1"]), ("sparsify", sparse["curve"][0]["top1"])]
    assert [stage for stage, _ in curve[2:]] == ["finetune"]
    assert (row["metric_val"], row["selected_epoch"], row["resumed_from"]) == (curve[2][1], 1, 0)
    assert row["base_sha256"] == file_sha256(cache.read(walk.context, trial.base_key, "x") / cache.WEIGHTS)
    assert [row[f"seconds_{name}"] for name in ("base", "sparsify", "select")] == [
        dense["seconds"], sparse["seconds"], selected["seconds"],
    ]  # fmt: skip
    assert (row["reg_time_s"], row["step_time_s"]) == (sparse["reg_time_s"], selected["step_time_s"])
    assert min(row["seconds_prune"], row["seconds_finetune"], row["seconds_measure"], selected["seconds"]) > 0
    for name in ("macs", "macs_base", "macs_tp", "macs_tp_base", "params", "params_base", "steps", "speedup"):
        assert row[name] == cut[name] is not None
    assert json.loads(row["kept"]) == cut["kept"]
    assert (row["device"], row["metric_name"], row["exclusive"], row["timing_reason"]) == ("cpu", "top1", True, None)


def test_what_may_shrink_is_the_sweeps_choice_in_the_cut_and_at_home(walk: Walk) -> None:
    row = walk.row
    assert list(json.loads(row["kept"])) == ["conv3"]
    net = load_pruned(walk.storage.fetch(row["artifact"]))
    assert [net.conv1.out_channels, net.conv2.out_channels] == [12, 12]
    assert net.conv3.out_channels < 24
    trial = walk.units[-1].trials[0]
    final = open_task(trial, {}, CPU).evaluate(net, "test")
    assert (final["top1"], final["top5"], final["loss"]) == (row["metric_final"], row["top5"], row["loss_final"])


def test_the_dense_network_is_the_one_that_was_trained(walk: Walk) -> None:
    from raybench.pipeline.network import model_of

    trial = walk.units[-1].trials[0]
    task, found = open_task(trial, {}, CPU), base.load(trial, walk.context)
    assert task.evaluate(model_of(found.folder, trial, task, CPU), "test") == found.metrics


def test_what_is_done_is_not_done_again(walk: Walk) -> None:
    before = len(list(read_journal(walk.storage)))
    for unit in walk.units:
        said: list[str] = []
        end = run_unit(unit, walk.context, said.append)
        assert (end.key, end.kind, end.status, end.stage, said) == (unit.key, unit.kind, "ok", "", [])
    assert len(list(read_journal(walk.storage))) == before


def test_what_another_driver_runs_is_left_to_it(tmp_path: Path) -> None:
    unit, context = units_of(tmp_path)[0], StageContext(open_storage(tmp_path / "store"))
    with Lease(context.storage, unit.key):
        end = run_unit(unit, context)
    assert (end.key, end.kind, end.status) == (unit.key, "base", "busy")
    assert not list(read_journal(context.storage))


def test_a_stage_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    """Each later unit is put back, with the stage that it missed in the journal, and no row tells of it."""
    units, context = units_of(tmp_path), StageContext(open_storage(tmp_path / "store"))
    for unit in units[1:]:
        end = run_unit(unit, context)
        assert (end.key, end.kind, end.status, end.stage) == (unit.key, unit.kind, "again", STAGES[unit.kind][0])
        assert "not in the stage cache of" in end.error_message
        (entry,) = read_journal(context.storage, unit.key)
        assert (entry["status"], entry["error"]) == ("interrupted", end.error_message)
    assert not Store(context.storage).statuses()
    trial = units[-1].trials[0]
    assert all(key in end.error_message for key in (trial.base_key, trial.sparsify_key, trial.select_key))
    with pytest.raises(StageLost, match=f"base {trial.base_key} is not in the stage cache") as lost:
        base.load(trial, context)
    assert lost.value.stage == "base"
    keys = [trial.base_key, None, trial.select_key]
    with pytest.raises(StageLost, match=f"{trial.base_key}, {trial.select_key}; made again"):
        cache.require(context, *keys)


PLUGIN = """
from raybench.errors import NotSupported
from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance


@importance("breaks")
class Breaks(ElementwiseImportance):
    def saliency(self, layer):
        raise {error}
"""


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        ("ValueError('no scores today')", "failed", "ValueError", "no scores today"),
        ("SystemExit()", "failed", "SystemExit", "SystemExit"),
        ("NotSupported('not for these')", "skipped", "NotSupported", "not for these"),
    ],
)
def test_a_unit_that_fails_says_where_and_why(walk, tmp_path, error, status, kind, message) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(error=error))
    registry.add_plugin(tmp_path / "mine.py")
    _, select, cell = units_of(tmp_path, "breaks")
    end = run_unit(select, walk.context)
    assert (end.key, end.kind, end.status, end.stage) == (select.key, "select", status, "select")
    assert (end.error_type, end.error_message) == (kind, message)
    assert end.seconds > 0
    (entry,) = read_journal(walk.storage, select.key)
    assert (entry["status"], entry["error"], entry["traceback"]) == (status, message, end.traceback_path)
    if status == "failed":
        traceback = walk.storage.read(end.traceback_path).decode()
        assert end.traceback_path.startswith(f"tracebacks/{select.key}-")
        assert traceback.rstrip().splitlines()[-1].startswith(kind)
        assert "mine.py" in traceback
    assert cell.key not in Store(walk.storage).statuses(), "the driver writes the row of a cell whose stage failed"


def test_a_cell_that_fails_has_a_row(tmp_path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no figures")

    monkeypatch.setattr("raybench.pipeline.measure.footprint", fail)
    walk = Walk(tmp_path, **{METHOD: "magnitude-l2"})
    end = walk.outcomes["cell"]
    assert (end.status, end.stage, end.error_type) == ("failed", "measure", "RuntimeError")
    row = Store(walk.storage).record(end.key)
    assert [row[name] for name in ("status", "stage", "error_type", "error_message", "traceback_path")] == [
        "failed", "measure", "RuntimeError", "no figures", end.traceback_path,
    ]  # fmt: skip


class Shared(Machine):
    """A machine that others compute on."""

    def timed(self, timing):
        return None, SHARED


def test_a_shared_machine_gives_a_row_without_timings(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.unit.test_pipeline_units.Machine", Shared)
    row = Walk(tmp_path).row
    timings = ("latency_ms", "latency_base_ms", "latency_b32_ms", "throughput", "step_time_s", "reg_time_s")
    assert [row[name] for name in timings] == [None] * 6
    assert (row["exclusive"], row["timing_reason"], row["batch_reason"]) == (False, SHARED, SHARED)
    assert row["activations"] > 0


@pytest.mark.parametrize(
    ("methods", "old", "new", "message"),
    [
        (METHOD, "images: 32", "images: 99999", "the recipe sets 99999 calibration images, the training split has"),
        ("magnitude-l2", "images: 32", "images: 99999", ""),
        ("magnitude-l2+group-norm", "images: 32", "images: 99999", ""),
        ("cp", "images: 32", "images: 99999", "the recipe sets 99999 calibration images"),
    ],
)
def test_input_is_checked_for_what_is_used(tmp_path, methods, old, new, message) -> None:
    units, storage = units_of(tmp_path, methods, **{old: new}), open_storage(tmp_path / "store")
    if not message:
        check_input(units, {}, storage)
        return
    with pytest.raises(UserError, match=message) as caught:
        check_input(units, {}, storage)
    assert len(str(caught.value).splitlines()) == 1


def test_every_mistake_in_the_input_is_listed_once(tmp_path) -> None:
    trial = units_of(tmp_path)[0].trials[0]
    bad = [trial.model_copy(update={"dataset_params": {name: 1}}) for name in ("first", "second")]
    units = [Unit(one.base_key, "base", (one,)) for one in (trial, *bad, bad[0])]
    with pytest.raises(UserError) as caught:
        check_input(units, {}, open_storage(tmp_path / "store"))
    first, second = str(caught.value).splitlines()
    assert "'first'" in first
    assert "'second'" in second


def test_a_network_is_tried_once_for_all_seeds_and_only_where_its_base_is_to_be_made(tmp_path, monkeypatch) -> None:
    from raybench.pipeline import check

    made: list[str] = []
    real = check.fresh_model
    monkeypatch.setattr(check, "fresh_model", lambda trial, *rest: made.append(trial.base_key) or real(trial, *rest))
    trial = units_of(tmp_path)[0].trials[0]
    seeds = [trial.model_copy(update={"base_seed": seed}) for seed in (0, 1, 2)]
    wide = trial.model_copy(update={"model_params": {"width": 6}})
    units = [Unit(one.base_key, "base", (one,)) for one in (*seeds, wide)]
    check_input([*units, *units_of(tmp_path)[1:]], {}, open_storage(tmp_path / "store"))
    assert made == [seeds[0].base_key, wide.base_key]
