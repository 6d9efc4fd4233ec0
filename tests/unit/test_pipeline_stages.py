"""What the stages of a trial pass on, as whole calls: tasks, criteria, regularizers, checkpoints, timings."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import StageLost
from raybench.pipeline import base, cache, check, cut, finetune, recalibrate, select, sparsify, unit
from raybench.pipeline.context import StageContext
from raybench.pipeline.exclusive import Machine
from raybench.plan.records import Unit
from raybench.progress.journal import read_journal
from raybench.selection.records import Cut
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.leases import LeaseLost
from raybench.storage.open import open_storage
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial, Weights
from raybench.tasks.protocol import Training

CPU = torch.device("cpu")
FACTS = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.5,), "")
STAGES = {
    name: TrainRecipe(epochs=n, lr=0.1 * n, warmup_epochs=1)
    for n, name in enumerate(("base", "sparsify", "finetune"), 2)
}
DONE = Training(({"epoch": 1.0, "top1": 5.0},), 1, 2.5, 4)


def trial_of(**fields) -> Trial:
    recipe = Recipe(name="r", **STAGES, calibration_images=12, calibration_batch=5)
    required = {"dataset": "digits", "model": "test-convnet", "importance": MethodRef(name="taylor"), "speedup": 2.0}
    return Trial(**{**required, "recipe": recipe, "seed": 3, "base_seed": 4, **fields})


class Task:
    """Notes how it is called."""

    metric, data = "top1", FACTS

    def __init__(self) -> None:
        self.trained, self.asked = [], []

    def train(self, *args, **named):
        self.trained.append((args, named))
        return DONE

    def evaluate(self, model, split):
        self.asked.append((model, split))
        return {"top1": 50.0, "loss": 1.0}

    def calibration(self, images, batch_size, seed):
        self.asked.append((images, batch_size, seed))
        return SimpleNamespace(images=torch.zeros(images, 1, 8, 8))


@pytest.fixture
def context(tmp_path) -> StageContext:
    return StageContext(open_storage(tmp_path / "store"), machine=Machine(tmp_path / "locks"))


def is_of(checkpoint, context: StageContext, key: str) -> bool:
    """Whether what `checkpoint` saves is found under `key`; nothing is left."""
    own = StageCheckpoint(context.storage, key)
    assert own.load() is None
    checkpoint.save({"epoch": 7})
    found = own.load()
    own.clear()
    return found == {"epoch": 7}


@pytest.mark.parametrize(("protocol", "split"), [("raybench", "val"), ("pruningbench", "test")])
@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_fine_tuning_trains_the_pruned_network_with_its_own_recipe(protocol, split, distill, context) -> None:
    fine = STAGES["finetune"].model_copy(update={"distill": distill})
    recipe = trial_of().recipe.model_copy(update={"finetune": fine})
    one, task, dense, pruned = (
        trial_of(protocol=protocol, recipe=recipe),
        Task(),
        nn.Linear(1, 1).train(),
        nn.Linear(1, 2),
    )
    assert finetune.finetune(one, dense, SimpleNamespace(model=pruned), task, context) is DONE
    (((model, stage), named),) = task.trained
    checkpoint = named.pop("checkpoint")
    assert (model, stage) == (pruned, fine)
    assert named == {"seed": 3, "teacher": dense if distill else None, "select": split}
    assert dense.training is not bool(distill), "a teacher is in eval mode"
    assert is_of(checkpoint, context, one.trial_id)


@pytest.mark.parametrize(("protocol", "split"), [("raybench", "val"), ("pruningbench", "test")])
def test_a_base_is_trained_by_its_own_recipe_and_seed_or_only_evaluated(protocol, split, context, monkeypatch) -> None:
    task, net, notes, opened = Task(), nn.Linear(1, 1), [], []
    monkeypatch.setattr(base, "open_task", lambda *args: opened.append(args) or task)
    monkeypatch.setattr(base, "fresh_model", lambda *args: opened.append(args) or net)
    one = trial_of(protocol=protocol)
    found = base.run(one, context, lambda **facts: notes.append(facts))
    assert opened[0][:4] == (one, context.data_roots, CPU, context.storage)
    assert opened[1] == (one, task, CPU)
    (((model, stage), named),) = task.trained
    checkpoint = named.pop("checkpoint")
    assert (model, stage, named) == (net, STAGES["base"], {"seed": 4, "select": split})
    assert is_of(checkpoint, context, one.base_key)
    assert notes == [{"resumed_from": 4}]
    assert (found.metrics, found.curve, task.asked) == ({"top1": 50.0, "loss": 1.0}, DONE.curve, [(net, "test")])
    assert base.load(one, context) == found
    assert base.run(one, context, lambda **facts: pytest.fail("made again")) == found
    given = trial_of(weights=Weights(kind="file", identity="0" * 64))
    assert base.run(given, context, lambda **facts: pytest.fail("trained")).curve == ()
    assert len(task.trained) == 1


@pytest.mark.parametrize(
    ("metrics", "classes", "warns"),
    [
        ({"top1": 14.49}, 10, True), ({"top1": 14.5}, 10, False), ({"top1": 52.4}, 2, True), ({"top1": 52.5}, 2, False),
        ({"mAP50-95": 0.0}, 10, False), ({"top1": 99.0}, 1, True), ({"top1": 99.0}, 0, True),
    ],
)  # fmt: skip
def test_weights_that_hardly_beat_guessing_are_warned_of(metrics, classes, warns) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        base._warn_near_chance(metrics, classes)
    if not warns or classes < 2:
        assert len(caught) <= int(warns)
        return
    assert [str(one.message) for one in caught] == [
        f"the loaded weights score near chance: top1 {metrics['top1']:.2f} % of {classes} classes. Were they "
        "trained on these classes in this order, at this image size and with this normalisation?"
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("protocol", "kept"), [("raybench", "last"), ("pruningbench", "test")])
def test_sparsifying_trains_the_dense_network_with_a_bound_regularizer(protocol, kept, context, monkeypatch) -> None:
    task, dense, notes, made, opened = Task(), SimpleNamespace(folder=Path("dense")), [], [], []
    nets = iter([nn.Linear(1, 1), nn.Linear(1, 2)])
    monkeypatch.setattr(sparsify, "open_task", lambda *args: opened.append(args) or task)
    monkeypatch.setattr(sparsify.base, "load", lambda *args: dense)
    monkeypatch.setattr(sparsify, "model_of", lambda *args: made.append(args) or next(nets))
    monkeypatch.setattr(sparsify, "_bound", lambda one, model, of: (model, of))
    one = trial_of(protocol=protocol, regularizer=MethodRef(name="group-norm", params={"strength": 0.5}))
    found = sparsify.run(one, context, lambda **facts: notes.append(facts))
    assert made == [(Path("dense"), one, task, CPU)] * 2
    assert [args[:4] for args in opened] == [(one, context.data_roots, CPU, context.storage)]
    ((first, stage), named), ((again, once), timed) = task.trained
    checkpoint, none = named.pop("checkpoint"), timed.pop("checkpoint")
    assert (first.out_features, stage) == (1, STAGES["sparsify"])
    assert named == {"seed": 3, "regularizer": (first, task), "select": kept}
    assert is_of(checkpoint, context, one.sparsify_key)
    assert (again.out_features, once) == (2, STAGES["sparsify"].model_copy(update={"epochs": 1, "warmup_epochs": 0}))
    assert timed == {"seed": 3, "regularizer": (again, task), "select": kept}
    assert (none.load(), none.save({})) == (None, None)
    assert notes == [{"resumed_from": 4}]
    assert (found.curve, found.reg_time_s, found.timing_reason) == (DONE.curve, 2.5, None)
    assert sparsify.load(one, context) == found
    assert sparsify.load(trial_of(), context) is None


def test_long_sparsifying_epochs_are_not_repeated_for_their_timing(context, monkeypatch) -> None:
    monkeypatch.setattr(sparsify, "model_of", lambda *args: nn.Identity())
    monkeypatch.setattr(sparsify, "_bound", lambda *args: None)
    one = trial_of(regularizer=MethodRef(name="group-norm"))
    assert sparsify._time_epoch(one, context, Task(), Path("d"), 30.4) == (
        None, "an epoch takes 30 s: not repeated only for its timing",
    )  # fmt: skip
    assert sparsify._time_epoch(one, context, Task(), Path("d"), 30.0) == (2.5, None)


def test_a_regularizer_has_the_trials_parameters_and_the_networks_groups(monkeypatch) -> None:
    bound, net = [], nn.Linear(1, 1)

    class Own:
        def __init__(self, **params) -> None:
            self.params = params

        def bind(self, model, groups) -> None:
            bound.append((model, groups))

    monkeypatch.setattr(registry.regularizer, "load", lambda name: {"own": Own}[name])
    monkeypatch.setattr(sparsify, "groups_of", lambda *args: args)
    one = trial_of(regularizer=MethodRef(name="own", params={"strength": 0.5}))
    assert sparsify._bound(one, net, "task").params == {"strength": 0.5}
    assert bound == [(net, (net, one, "task"))]


def test_selections_are_asked_for_with_everything_the_trial_says(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(select, "select_channels", lambda *args, **named: calls.append((args, named)) or "cuts")
    monkeypatch.setattr(select, "select_ratio", lambda *args, **named: calls.append((args, named)) or "cut")
    fields = {"strategy": "local", "round_to": 4, "protocol": "pruningbench", "schedule": "iterative"}
    several = [trial_of(speedup=s, **fields) for s in (2.0, 4.0)]
    image = torch.zeros(1)
    assert select._cuts(several, "scoring", image, "groups") == "cuts"
    one = trial_of(ratio=0.25, strategy="global", round_to=2)
    assert select._cuts([one], "scoring", image, "groups") == {2.0: "cut"}
    assert calls == [
        (("scoring", image, "groups", [2.0, 4.0]), fields),
        (("scoring", image, "groups", 0.25), {"strategy": "global", "round_to": 2}),
    ]


@pytest.mark.parametrize(
    ("name", "params", "asked"),
    [("taylor", {}, True), ("magnitude-l2", {}, False), ("cp", {"reconstruct": False}, True), ("random", {}, False)],
)
def test_calibration_images_are_asked_for_where_they_are_looked_at(name, params, asked) -> None:
    one, task = trial_of(importance=MethodRef(name=name, params=params, seeded=asked)), Task()
    criterion = select.criterion_of(one)
    assert type(criterion) is registry.importance.load(name)
    assert all(getattr(criterion, key) == value for key, value in params.items())
    found = select.calibration_of(criterion, one, task)
    assert (found is not None, task.asked) == (asked, [(12, 5, 3)] if asked else [])


def test_published_cuts_are_read_and_the_missing_are_made_in_one_pass(context, monkeypatch) -> None:
    trials, made, notes = [trial_of(speedup=s) for s in (2.0, 3.0, 4.0)], [], []

    def publish(missing, where) -> None:
        made.append([one.speedup for one in missing])
        for one in missing:
            own = Cut({"a": (0, 2)}, one.speedup, 1.9, 10, 5, 20, 9, 11, 6, None, 3)
            select._publish(one, own, where, {"step_time_s": 0.5, "timing_reason": None, "seconds": 7.0})

    monkeypatch.setattr(select, "_select", publish)
    select.run(trials[:1], context, lambda **facts: notes.append(facts))
    found = select.run(trials, context, lambda **facts: notes.append(facts))
    select.run(trials, context, lambda **facts: notes.append(facts))
    assert made == [[2.0], [3.0, 4.0]]
    assert notes == [{"speedups": [2.0]}, {"speedups": [3.0, 4.0]}, {"speedups": []}]
    assert [one.cut.target for one in found] == [2.0, 3.0, 4.0]
    assert found[0] == select.Selection(Cut({"a": (0, 2)}, 2.0, 1.9, 10, 5, 20, 9, 11, 6, None, 3), 0.5, None, 7.0)


def test_a_step_is_a_scoring_and_a_ranking(monkeypatch) -> None:
    clock, ranked = iter([10.0, 12.5]), []
    monkeypatch.setattr(select.time, "perf_counter", lambda: next(clock))
    scoring = SimpleNamespace(scorer=lambda groups: SimpleNamespace(rank=lambda: ranked.append(groups)))
    assert (select._time_step(scoring, "groups"), ranked) == (2.5, ["groups"])


def test_a_network_is_cut_on_a_copy_and_refitted_with_its_images(monkeypatch) -> None:
    net, applied, fitted, task = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(6, 5)), [], [], Task()
    monkeypatch.setattr(cut, "groups_of", lambda *args: applied.append(args) or "groups")

    def apply(model, groups, kept) -> None:
        applied.append((model, groups, kept))
        model[0] = nn.Conv2d(1, 2, 3)

    monkeypatch.setattr(cut.surgery, "apply", apply)
    monkeypatch.setattr(cut.refit, "reconstruct", lambda *args, **named: fitted.append((args, named)))
    one, chosen = trial_of(importance=MethodRef(name="cp")), Cut({"a": (1,)}, 2.0, 2.0, 1, 1, 1, 1)
    pruned = cut.cut_network(one, net, chosen, task)
    assert applied == [(pruned.model, one, task), (pruned.model, "groups", {"a": (1,)})]
    assert pruned.widths == {"0": ((4, 1), (2, 1)), "1": ((5, 6), (5, 6))}
    assert (net[0].out_channels, pruned.model is net) == (4, False)
    (((criterion, start, model, groups, kept, calibration), named),) = fitted
    assert (type(criterion), start, model, groups, kept) == (
        registry.importance.load("cp"), net, pruned.model, "groups", {"a": (1,)},
    )  # fmt: skip
    assert (len(calibration.images), task.asked, named) == (12, [(12, 5, 3)], {"stage": "surgery"})
    cut.cut_network(trial_of(), net, chosen, task)
    assert len(fitted) == 1, "taylor refits nothing"
    widths = cut._widths(nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.ConvTranspose2d(3, 4, 1), nn.Linear(2, 1)))
    assert widths == {"0": (3, 2), "2": (4, 3), "3": (1, 2)}


def test_norms_are_measured_anew_on_the_seeds_full_batches(monkeypatch) -> None:
    net, measured = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False)), []
    monkeypatch.setattr(recalibrate, "measure_norms", lambda *args: measured.append(args))
    anew = trial_of(recipe=trial_of().recipe.model_copy(update={"recalibration_images": 12}))
    for one, model in ((trial_of(), net), (anew, nn.Linear(1, 1)), (anew, net[1])):
        assert recalibrate.recalibrate(one, model, task := Task()) is None
        assert task.asked == []
    assert recalibrate.recalibrate(anew, net, task := Task()) == {"top1": 50.0, "loss": 1.0}
    ((model, norms, batches),) = measured
    assert (model, norms, [len(batch) for batch in batches]) == (net, [net[0]], [5, 5])
    assert task.asked == [(12, 5, 3), (net, "test")]


def test_what_is_not_in_the_cache_is_told(context) -> None:
    url = context.storage.url
    with pytest.raises(StageLost) as lost:
        cache.read(context, "k", "base")
    assert (str(lost.value), lost.value.stage) == (
        f"base k is not in the stage cache of {url}; it is made again",
        "base",
    )
    cache.require(context, None)
    with pytest.raises(StageLost) as lost:
        cache.require(context, "a", None, "b")
    assert (str(lost.value), lost.value.stage) == (f"not in the stage cache of {url}: a, b; made again", "cache")


def test_a_stage_is_built_once_with_its_seconds(context, monkeypatch) -> None:
    clock, built = iter([10.0, 14.5]), []
    monkeypatch.setattr(cache.time, "perf_counter", lambda: next(clock))

    def build(folder: Path) -> dict:
        built.append(folder.name)
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("x")
        return {"a": 1}

    first = cache.build_once(context, "k", build)
    assert cache.build_once(context, "k", build) == first == cache.read(context, "k", "x")
    assert {key: cache.result(first)[key] for key in ("a", "seconds")} == {"a": 1, "seconds": 4.5}
    assert cache.content_of(first, "file") == b"x"
    monkeypatch.undo()
    assert cache.result(cache.build_once(context, "l", build, seconds=2.0))["seconds"] == 2.0
    assert built == ["k", "l"]
    (first / "file").write_text("y")
    with pytest.raises(StageLost) as lost:
        cache.content_of(first, "file")
    assert lost.value.stage == "cache"


@pytest.mark.parametrize(("weights", "stages"), [("trained", ["base", "finetune"]), ("file", ["finetune"])])
def test_recipes_are_checked_of_the_stages_that_run(weights, stages) -> None:
    one = trial_of(weights=Weights(kind=weights))
    assert check._requirements(one) == ([STAGES[name] for name in stages], 12)
    both = one.model_copy(update={"regularizer": MethodRef(name="group-norm"), "importance": MethodRef(name="lamp")})
    assert check._requirements(both) == ([STAGES[name] for name in (*stages[:-1], "sparsify", "finetune")], 0)


def test_a_unit_whose_lease_was_lost_is_left_to_the_other_driver(context, monkeypatch) -> None:
    def lost(*args):
        raise LeaseLost("stood still")

    monkeypatch.setattr(unit, "RUN", {"base": lost})
    monkeypatch.setattr(unit, "check_variables", lambda *args: None)
    end = unit.run_unit(Unit("k", "base", (trial_of(),)), context)
    assert (end.key, end.kind, end.status, end.error_message) == ("k", "base", "busy", "")
    (entry,) = read_journal(context.storage, "k")
    assert (entry["status"], entry["error"]) == ("interrupted", "stood still")
