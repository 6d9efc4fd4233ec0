"""Selections that are trained, through the whole pipeline: keys, plans, refusals, rows, files, interruptions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import raybench
from raybench import registry
from raybench.cli.main import main
from raybench.errors import NotSupported, UserError
from raybench.pipeline import base, cache, select, sparsify
from raybench.pipeline.context import StageContext
from raybench.pipeline.exclusive import Machine
from raybench.pipeline.network import new_model
from raybench.pipeline.trained import attached
from raybench.plan.plan import plan_trials
from raybench.results.store import Store
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.open import open_storage
from raybench.sweep.axes import MethodAxis
from raybench.sweep.resolve import resolve
from raybench.sweep.resources import Resources
from raybench.sweep.trial import MethodRef
from raybench.tasks.open import open_task
from tests.unit.sweeps import RECIPE, problems_of, sweep

RESREP = {"name": "resrep", "params": {"strength": 0.3, "momentum": 0.5, "start": 1, "every": 2, "rows": 1}}
TRAINED = {
    "name": "trained", "models": "test-convnet", "datasets": "digits", "speedups": [1.2, 1.3],
    "methods": ["magnitude-l2", RESREP],
    "recipe": {
        "base": {"epochs": 2, "batch_size": 64, "optimizer": "adamw", "lr": 0.004},
        "sparsify": {"epochs": 3, "batch_size": 64, "lr": 0.05, "schedule": "cosine"},
        "finetune": {"epochs": 1, "batch_size": 64, "optimizer": "adamw", "lr": 0.003},
    },
}  # fmt: skip
PLUGIN = '''
"""Drops the channels whose batch norm scale is smallest after some epochs with a penalty on it."""
from dataclasses import dataclass
from raybench import Budget, TrainedSelection
from raybench.registry import selection

@selection("small-scales")
@dataclass
class SmallScales(TrainedSelection):
    """strength * sum |gamma|; the smallest go."""
    strength: float = 0.01
    requires = "batch-norm"

    def attach(self, model, budget: Budget):
        norms = {g.name: [m.layer for m in g.members if m.kind == "norm"] for g in budget.groups}
        self.scales = {name: model.get_submodule(own[0]).weight for name, own in norms.items() if own}
        self.budget = budget

    def add_gradients(self):
        for scale in self.scales.values():
            scale.grad.add_(scale.detach().sign(), alpha=self.strength)

    def kept(self):
        return self.budget.choose({name: scale.detach().abs().numpy() for name, scale in self.scales.items()})
'''


def trials(**changes):
    found = resolve(sweep(**{"models": "test-convnet", "methods": [RESREP], **changes}))
    return {(trial.speedup, trial.strategy, trial.seed): trial for trial in found}


def test_each_speed_up_and_strategy_is_trained_for_itself():
    found = trials(strategies=["global", "local"])
    for name in ("sparsify_key", "pass_key", "select_key", "trial_id"):
        assert len({getattr(trial, name) for trial in found.values()}) == len(found) == 8
    assert len({trial.base_key for trial in found.values()}) == 1
    assert {trial.schedule for trial in found.values()} == {"one-shot"}
    for trial in found.values():  # siblings have the keys of trials made anew
        again = trial.model_copy()
        same = ("sparsify_key", "pass_key", "select_key", "trial_id", "base_key")
        assert [getattr(again, name) for name in same] == [getattr(trial, name) for name in same]
        assert trial.stages == (trial.recipe.base, trial.recipe.sparsify, trial.recipe.finetune)
    other = trials(methods=[{**RESREP, "params": {"rows": 2}}])[2.0, "protected-global", 0]
    assert other.sparsify_key not in {trial.sparsify_key for trial in found.values()}
    anyway = trials(schedule="iterative")[2.0, "protected-global", 0]  # a schedule says nothing of it
    assert anyway == trials()[2.0, "protected-global", 0]


def test_a_plan_has_a_training_for_each_speed_up_and_seed():
    found = plan_trials(tuple(trials().values()), Resources())
    kinds = [unit.kind for unit in found.units]
    assert [kinds.count(kind) for kind in ("base", "sparsify", "select", "cell")] == [1, 4, 4, 4]
    assert all(len(unit.trials) == 1 for unit in found.units if unit.kind != "base")
    needs = {unit.kind: [found.units[i].kind for i in range(len(kinds)) if found.units[i].key in unit.needs]
             for unit in found.units}  # fmt: skip
    assert needs == {"base": [], "sparsify": ["base"], "select": ["base", "sparsify"],
                     "cell": ["base", "sparsify", "select"]}  # fmt: skip


def test_criteria_are_as_they_were():
    assert "trained" not in MethodRef(name="lamp").model_dump()
    assert MethodRef(name="resrep", trained=True).model_dump()["trained"] is True
    found = trials(methods=["lamp+group-norm"])
    assert len({trial.sparsify_key for trial in found.values()}) == 2  # one a seed
    assert all("trained" not in trial.trial_id for trial in found.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 0.5, "speedups": [2]}, "'resrep' trains for a speed-up; found ratio 0.5, expected speedups"),
        ({"targets": {"params": [2]}}, "'resrep' trains for a speed-up; found a target of params, expected speedups"),
        ({"recipe": {name: RECIPE[name] for name in ("name", "base", "finetune")}},
         "sparsify: the key is missing; method 'resrep' is a trained selection"),
    ],
)  # fmt: skip
def test_what_can_not_be_asked_of_it(fields, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        trials(**fields)


def test_it_takes_no_regularizer():
    assert problems_of(MethodAxis, {"name": "resrep+group-norm"}) == [
        ("found 'resrep+group-norm', expected 'resrep' alone: it trains by itself, without a regularizer", ("name",))
    ]
    assert problems_of(MethodAxis, {"name": "resrep", "params": {"repair": "ridge"}})[0][0].startswith(
        "unknown parameter of trained selection 'resrep'"
    )


def test_what_only_scores_refuses_it_by_name(capsys, tmp_path):
    with pytest.raises(UserError, match=r"resrep trains the network to select.*raybench prune"):
        raybench.prune(torch.nn.Linear(2, 2), torch.zeros(1, 2), 2.0, "resrep")
    assert main(["sensitivity", "test-convnet", "--method", "resrep(rows=2)", "--storage", str(tmp_path / "s")]) == 2
    assert "found resrep, which trains for a speed-up; expected a criterion" in capsys.readouterr().err


def test_a_model_without_batch_norm_is_a_skipped_cell():
    found = plan_trials(tuple(trials(models=["test-vit"]).values()), Resources())
    reason = "trained selection resrep needs BatchNorm; test-vit normalises with layer norm"
    assert {skip.reason for skip in found.skips} == {reason}


def test_a_method_of_class_scores_is_skipped_on_other_data():
    found = plan_trials(
        tuple(trials(models="test-detector", datasets="digits-detection", methods="nppm").values()), Resources()
    )
    reason = "trained selection nppm is for classification; digits-detection is data for detection"
    assert {skip.reason for skip in found.skips} == {reason}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("nppm", {"processes": 2}, "nppm is trained by one process; the cell has 2"),
        ("tpp", {"strategy": "optimal"}, "tpp ranks units while it trains; strategy optimal ranks none"),
        ("tpp", {"keep": ("*",)}, "has no group of channels that can be pruned"),
    ],
)
def test_what_is_found_when_it_is_attached_skips_the_cell(name, fields, message, tmp_path):
    trial = next(iter(trials(methods=name).values())).model_copy(update=fields)
    task = open_task(trial, {}, torch.device("cpu"))
    with pytest.raises(NotSupported, match=message):
        attached(trial, new_model(trial, task, torch.device("cpu")), task)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The storage of a sweep with a built-in and a plugged-in selection, run once."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.py").write_text(PLUGIN)
    fields = {**TRAINED, "methods": [*TRAINED["methods"], "small-scales"]}
    (folder / "sweep.yaml").write_text(json.dumps(fields))
    plugin = ["--plugin", str(folder / "mine.py")]
    command = ["run", str(folder / "sweep.yaml"), "--local", "--storage", str(folder / "store"), *plugin]
    assert main(command) == 0
    ran = len(list((folder / "store/journal").rglob("*.json")))
    assert main(command) == 0
    assert len(list((folder / "store/journal").rglob("*.json"))) == ran  # nothing was left to do
    return folder / "store"


def test_cells_are_rows_with_the_asked_speed_up(store):
    rows = Store(open_storage(str(store))).table().to_pylist()
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        sparse = ["sparsify"] * 3 if row["method"] != "magnitude-l2" else []
        assert [epoch["stage"] for epoch in row["curve"]] == ["base", "base", *sparse, "finetune"]
        assert abs(row["speedup"] / row["speedup_target"] - 1) <= 0.005 or row["reason"] == "granularity", row["reason"]
        if sparse:
            assert (row["regularizer"], row["schedule"], row["step_time_s"]) == (None, "one-shot", None)
            assert row["reg_time_s"] > 0
            assert "selected while it was trained" in row["timing_reason"]
    files = [raybench.load_pruned(store / row["artifact"]) for row in rows if row["method"] == "resrep"]
    assert all(not hasattr(module, "compactor") for model in files for module in model.modules())
    resrep = {row["speedup_target"]: row["kept"] for row in rows if row["method"] == "resrep"}
    assert resrep[1.2] != resrep[1.3]


@pytest.mark.parametrize(
    "verb", [["show", "{id}", "--results", "STORE"], ["leaderboard", "STORE"], ["report", "STORE", "-o", "{out}"]]
)
def test_reports_know_them(store, verb, tmp_path, capsys):
    row = next(row for row in Store(open_storage(str(store))).table().to_pylist() if row["method"] == "resrep")
    words = [word.format(id=row["trial_id"], out=tmp_path / "r.html").replace("STORE", str(store)) for word in verb]
    code, out = main(words), capsys.readouterr()
    assert code == 0, out.err
    assert "resrep" in out.out + ((tmp_path / "r.html").read_text() if "-o" in words else "")


@pytest.mark.parametrize(
    ("track", "title", "there"),
    [("regularizers", "regularizers and trained selections", True), ("criteria", "criteria", False),
     ("all", "criteria and regularizers and trained selections", True)],
)  # fmt: skip
def test_boards_rank_them_beside_methods_that_train(store, track, title, there, capsys):
    assert main(["leaderboard", str(store), "--track", track, "--speedup", "1.2"]) == 0
    out = capsys.readouterr().out
    assert f": {title} by top1" in " ".join(out.split())
    assert ("resrep" in out, "magnitude-l2" in out) == (there, track != "regularizers")


def stages(tmp_path, trial, halt=None, monkeypatch=None):
    """The folder of `trial`'s sparsifying stage; with `halt` its process dies after so many epochs and starts again."""
    context = StageContext(open_storage(tmp_path), machine=Machine(tmp_path / "locks"))
    base.run(trial, context, lambda **_: None)
    if halt:
        with monkeypatch.context() as patch:
            save = StageCheckpoint.save

            def dying(self, state):
                save(self, state)
                if state["epoch"] == halt:
                    raise KeyboardInterrupt

            patch.setattr(StageCheckpoint, "save", dying)
            with pytest.raises(KeyboardInterrupt):
                sparsify.run(trial, context, lambda **_: None)
    noted = {}
    found = sparsify.run(trial, context, lambda **facts: noted.update(facts))
    assert noted["resumed_from"] == (halt or 0)
    (selection,) = select.run([trial], context, lambda **_: None)
    return cache.content_of(found.folder, cache.WEIGHTS), selection.cut


@pytest.mark.parametrize("name", sorted(registry.selection.entries()))
def test_a_killed_training_resumes_with_the_same_numbers(name, tmp_path, monkeypatch):
    fields = {**TRAINED, "speedups": 1.3, "methods": RESREP if name == "resrep" else name}
    (tmp_path / "sweep.yaml").write_text(json.dumps(fields))
    (trial,) = resolve(raybench.load_sweep(tmp_path / "sweep.yaml"))
    monkeypatch.setattr(sparsify, "_time_epoch", lambda *_: (1.0, None))
    whole, cut = stages(tmp_path / "whole", trial)
    resumed, again = stages(tmp_path / "resumed", trial, 2, monkeypatch)
    assert resumed == whole  # to the bit
    assert again.kept == cut.kept
    assert all(np.diff(units).min() > 0 for units in cut.kept.values() if len(units) > 1)
