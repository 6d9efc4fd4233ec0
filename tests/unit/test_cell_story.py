"""A cell from its stages to its row, as one list of calls; selections and cuts; what units of stages return."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported
from raybench.pipeline import cut, select
from raybench.pipeline import trial as cell
from raybench.pipeline.context import StageContext
from raybench.pipeline.early_stop import Decision, StoppedEarly
from raybench.plan.records import Unit
from raybench.results.store import Store
from raybench.selection.records import Cut
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.local import LocalStorage
from raybench.sweep.trial import MethodRef, Trial, Weights
from raybench.tasks.protocol import Training
from tests.unit.result_rows import row as finished
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
FACTS = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.5,), "")
CUT = Cut({"a": (0, 2)}, 2.0, 1.9, 1000, 526, 300, 170, 1100, 580, "granularity", 7)
METRICS = {"top1": 50.0, "loss": 1.0}


class Log:
    """Calls in order, as (name, arguments...), and what each returns."""

    def __init__(self) -> None:
        self.calls, self.answers = [], {}

    def noting(self, name: str):
        def call(*args, **named):
            self.calls.append((name, *args, *([named] if named else [])))
            answer = self.answers.get(name)
            if isinstance(answer, BaseException):
                raise answer
            return next(answer) if hasattr(answer, "__next__") else answer

        return call

    def patch(self, monkeypatch, place, names: str, prefix: str = "") -> None:
        for name in names.split():
            monkeypatch.setattr(place, name, self.noting(prefix + name))

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def context(tmp_path) -> StageContext:
    return StageContext(LocalStorage(tmp_path / "store"), data_roots={"digits": tmp_path}, team="team")


# The cell.


@pytest.fixture
def story(log, monkeypatch) -> SimpleNamespace:
    """Everything that a cell calls, and the stages that it reads."""
    clock = iter([10.0, 13.0, 13.5, 20.0, 20.25, 31.0, 50.0])
    monkeypatch.setattr(cell.time, "perf_counter", lambda: next(clock))
    log.patch(
        monkeypatch, cell, "now open_task model_of cut_network recalibrate finetune row_of stopped_row CutResults "
        "StageResults _publish",
    )  # fmt: skip
    for place, names in (("cache", "require"), ("measure", "check_cost footprint"), ("artifact", "publish")):
        log.patch(monkeypatch, getattr(cell, place), names, f"{place}.")
    for place in ("base", "sparsify", "select"):
        log.patch(monkeypatch, getattr(cell, place), "load", f"{place}.")
    log.patch(monkeypatch, cell.base, "start_of", "base.")
    monkeypatch.setattr(cell.patches, "check", log.noting("patches.check"))
    task = SimpleNamespace(metric="top1", data=FACTS, evaluate=log.noting("evaluate"))
    dense, sparse = SimpleNamespace(folder=Path("dense")), SimpleNamespace(folder=Path("sparse"))
    nets, training = (nn.Linear(1, 1), nn.Linear(1, 2)), Training((), 0, 0.0, 4)
    pruned, selection = SimpleNamespace(model=nn.Linear(1, 3)), SimpleNamespace(cut=CUT)
    log.answers |= {
        "now": "then", "open_task": task, "base.load": dense, "sparsify.load": sparse, "select.load": selection,
        "model_of": nets[0], "base.start_of": nets[1], "cut_network": pruned, "recalibrate": {"top1": 3.0},
        "finetune": training,
        "evaluate": iter([{"top1": 1.0}, {"top1": 2.0}]), "measure.footprint": "footprint",
        "artifact.publish": "artifacts/x", "row_of": finished(), "stopped_row": "stopped", "StageResults": "results",
        "CutResults": "until",
    }  # fmt: skip
    return SimpleNamespace(
        task=task, dense=dense, sparse=sparse, nets=nets, training=training, pruned=pruned, selection=selection
    )


def run(log: Log, one: Trial, context: StageContext):
    return cell.run_cell(Unit("k", "cell", (one,)), context, log.noting("announce"), log.noting("note"))


def until_of(story, **changed) -> dict:
    return {
        "metric": "top1", "dense": story.dense, "sparse": story.sparse, "selection": story.selection,
        "pruned": story.pruned, "after_cut": {"top1": 1.0}, "recalibrated": {"top1": 3.0}, "started_at": "then",
        "device": CPU, **changed,
    }  # fmt: skip


def before_training(story, one: Trial, context: StageContext) -> list[tuple]:
    dense, sparse = story.nets
    return [
        ("now",), ("announce", "surgery"), ("cache.require", context, one.base_key, one.sparsify_key, one.select_key),
        ("open_task", one, context.data_roots, CPU, context.storage, "team"), ("base.load", one, context),
        ("sparsify.load", one, context), ("select.load", one, context),
        ("model_of", Path("dense"), one, story.task, CPU), ("base.start_of", Path("sparse"), one, story.task, context),
        ("cut_network", one, sparse, CUT, story.task),
        ("measure.check_cost", story.pruned.model, CUT, story.task, CPU), ("evaluate", story.pruned.model, "test"),
        ("recalibrate", one, story.pruned.model, story.task), ("announce", "finetune"),
        ("finetune", one, dense, story.pruned, story.task, context),
    ]  # fmt: skip


def test_a_cell_is_one_list_of_steps(log, story, context) -> None:
    one = trial(regularizer="group-norm")
    found = run(log, one, context)
    (results,) = (call for call in log.calls if call[0] == "StageResults")
    seconds = results[1].pop("seconds")
    assert seconds == {"prune": 3.0, "finetune": 6.5, "measure": 10.75}
    dense, _ = story.nets
    assert log.calls == [
        *before_training(story, one, context), ("note", {"resumed_from": 4}), ("announce", "measure"),
        ("evaluate", story.pruned.model, "test"),
        ("measure.footprint", dense, story.pruned.model, story.task, context),
        ("artifact.publish", context.storage, one, story.pruned.model, CUT, FACTS),
        ("StageResults", until_of(
            story, training=story.training, final={"top1": 2.0}, footprint="footprint", artifact="artifacts/x"
        )),
        ("row_of", one, "results"), ("patches.check", "finetune"), ("announce", "publish"),
        ("_publish", log.answers["row_of"], context),
    ]  # fmt: skip
    assert found == {"metric_final": 97.0, "metric_pruned": 60.0, "metric_base": 98.0, "speedup": 2.0}


def test_a_cell_without_a_regularizer_is_cut_from_the_dense_network(log, story, context) -> None:
    log.answers["sparsify.load"] = None
    run(log, trial(), context)
    (made,) = (call for call in log.calls if call[0] == "cut_network")
    assert made[2] is story.nets[0]
    assert "base.start_of" not in log.names


def test_a_cell_that_is_stopped_has_its_row_and_no_network(log, story, context) -> None:
    one, stopped = trial(regularizer="group-norm"), StoppedEarly(1, 2, Decision(1.0, 2.0), ())
    log.answers["finetune"] = stopped
    with pytest.raises(StoppedEarly):
        run(log, one, context)
    (until,) = (call[1] for call in log.calls if call[0] == "CutResults")
    assert set(until.pop("seconds")) == {"prune", "finetune"}
    assert log.calls == [
        *before_training(story, one, context), ("patches.check", "finetune"), ("CutResults", until_of(story)),
        ("stopped_row", one, "until", stopped), ("_publish", "stopped", context),
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "note"), [(None, ""), (0.5, ""), (0.25, "measured"), (None, "measured")])
def test_a_published_row_has_its_share_of_the_device_and_no_progress(tmp_path, share, note) -> None:
    context = StageContext(LocalStorage(tmp_path), share=share, share_note=note)
    record = finished()
    checkpoint = StageCheckpoint(context.storage, record["trial_id"])
    checkpoint.save({"epoch": 1})
    cell._publish(record, context)
    (stored,) = Store(context.storage).table().to_pylist()
    assert (stored["trial_id"], stored["metric_final"]) == (record["trial_id"], 97.0)
    assert (stored["device_share"], stored["share_note"]) == (share, note or None)
    assert checkpoint.load() is None


def test_units_of_stages_say_what_they_made(log, context, monkeypatch) -> None:
    one, two = trial(speedup=2.0), trial(speedup=2.5)
    for kind, answer, summary in (
        ("base", SimpleNamespace(metrics={"top1": 9.0}), {"top1": 9.0}),
        ("sparsify", SimpleNamespace(curve=(1, 2, 3)), {"epochs": 3}),
        ("select", [SimpleNamespace(cut=SimpleNamespace(target=t, speedup=t + 0.5)) for t in (2.0, 2.5)],
         {"2x": 2.5, "2.5x": 3.0}),
    ):  # fmt: skip
        log.calls.clear()
        log.answers[kind] = answer
        monkeypatch.setattr(getattr(cell, kind), "run", log.noting(kind))
        note = log.noting("note")
        assert cell.RUN[kind](Unit("k", kind, (one, two)), context, log.noting("announce"), note) == summary
        asked = (one, two) if kind == "select" else one
        assert log.calls == [("announce", kind), (kind, asked, context, note)]
    assert list(cell.RUN) == ["probe", "base", "sparsify", "select", "cell"]


# The selection.


@pytest.fixture
def selecting(log, monkeypatch, context) -> SimpleNamespace:
    net, scoring, calibration = nn.Linear(1, 1).train(), object(), SimpleNamespace(images=torch.zeros(3, 1, 8, 8))
    task = SimpleNamespace(data=FACTS, calibration=log.noting("calibration"))
    log.patch(
        monkeypatch, select, "open_task groups_of check_image criterion_of calibration_of Scoring "
        "asked_of _cuts _time_step _publish",
    )  # fmt: skip
    for place in ("base", "sparsify"):
        log.patch(monkeypatch, getattr(select, place), "load", f"{place}.")
    log.patch(monkeypatch, select.base, "start_of", "base.")
    monkeypatch.setattr(context.machine, "timed", lambda timing: (timing(), "why"))
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(select.time, "perf_counter", lambda: next(clock))
    log.answers |= {
        "open_task": task, "base.start_of": net, "groups_of": ["group"], "criterion_of": "criterion",
        "calibration": calibration, "calibration_of": "images", "Scoring": scoring, "_cuts": {2.0: "a", 4.0: "b"},
        "_time_step": 0.5, "asked_of": "asked", "base.load": SimpleNamespace(folder="dense"),
    }  # fmt: skip
    return SimpleNamespace(task=task, net=net, scoring=scoring)


def test_one_pass_selects_for_all_speed_ups(log, selecting, context) -> None:
    trials = [trial(speedup=speedup, seed=3, importance="taylor") for speedup in (2.0, 4.0)]
    select._select(trials, context)
    one, task, net, (black, again) = trials[0], selecting.task, selecting.net, [
        call[i] for call in log.calls for name, i in (("check_image", 2), ("_cuts", 3)) if call[0] == name
    ]  # fmt: skip
    for image in (black, again):
        assert torch.equal(image, torch.zeros(1, 1, 8, 8))
    (first,) = (call[3] for call in log.calls if call[0] == "check_image")
    assert first.shape == (1, 1, 8, 8)
    result = {"step_time_s": 0.5, "timing_reason": "why", "seconds": 3.0}
    assert log.calls == [
        ("open_task", one, context.data_roots, CPU, context.storage, "team"), ("sparsify.load", one, context),
        ("base.load", one, context), ("base.start_of", "dense", one, task, context), ("groups_of", net, one, task),
        ("calibration", 1, 1, 0), ("check_image", net, black, first), ("criterion_of", one),
        ("calibration_of", "criterion", one, task), ("Scoring", "criterion", net, "images", 3),
        ("asked_of", one, net, again, ["group"], context, None),
        ("_cuts", trials, selecting.scoring, again, ["group"], "asked"), ("_time_step", selecting.scoring, ["group"]),
        ("_publish", trials[0], "a", context, result), ("_publish", trials[1], "b", context, result),
    ]  # fmt: skip
    assert not net.training


def test_a_sparsified_network_is_selected_from(log, selecting, context) -> None:
    log.answers["sparsify.load"] = SimpleNamespace(folder="sparse")
    select._select([trial(), trial(speedup=4.0)], context)
    assert [call[1] for call in log.calls if call[0] == "base.start_of"] == ["sparse"]
    assert "base.load" not in log.names


def test_channels_that_are_chosen_before_a_transfer_are_scored_in_the_source(
    log, selecting, context, monkeypatch
) -> None:
    log.patch(monkeypatch, select, "source_network priced")
    source = nn.Linear(1, 2).train()
    log.answers |= {"source_network": source, "priced": {2.0: "c"}, "_cuts": {2.0: "a"}}
    monkeypatch.setattr(Trial, "prunes_first", True)
    one = trial()
    select._select([one], context)
    (image,) = (call[4] for call in log.calls if call[0] == "priced")
    assert (image.shape, source.training) == ((1, 1, 8, 8), False)
    assert [call for call in log.calls if call[0] in ("source_network", "Scoring", "priced", "_publish")] == [
        ("source_network", one, selecting.task, context), ("Scoring", "criterion", source, "images", 0),
        ("priced", {2.0: "a"}, one, selecting.net, image, ["group"], None),
        ("_publish", one, "c", context, {"step_time_s": 0.5, "timing_reason": "why", "seconds": 6.0}),
    ]  # fmt: skip


def test_a_network_without_groups_is_told(log, selecting, context) -> None:
    log.answers["groups_of"] = []
    with pytest.raises(NotSupported) as caught:
        select._select([trial()], context)
    assert str(caught.value) == "cifar-resnet20 has nothing to prune: no group of channels was found"


def test_cuts_of_token_methods_and_of_trained_selections_are_published(log, selecting, context, monkeypatch) -> None:
    log.patch(monkeypatch, select, "token_cuts example_of")
    monkeypatch.setattr(select.trained, "cut_of", log.noting("trained.cut_of"))
    found = SimpleNamespace(cuts={2.0: "a", 4.0: "b"}, step_time_s=0.25, timing_reason="shared")
    log.answers |= {"token_cuts": found, "trained.cut_of": "c", "example_of": "image"}
    trials = [trial(speedup=speedup, kind="tokens") for speedup in (2.0, 4.0)]
    select._select(trials, context)
    task, net = selecting.task, selecting.net
    result = {"step_time_s": 0.25, "timing_reason": "shared", "seconds": 3.0}
    assert log.calls[4:] == [
        ("example_of", FACTS, CPU), ("token_cuts", trials, net, "image", context.machine),
        ("_publish", trials[0], "a", context, result), ("_publish", trials[1], "b", context, result),
    ]  # fmt: skip
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(select.time, "perf_counter", lambda: next(clock))
    log.calls.clear()
    one = trial().model_copy(update={"importance": MethodRef(name="own", trained=True)})
    select._select([one], context)
    assert log.calls[-2:] == [
        ("trained.cut_of", one, "dense", net, ["group"], task),
        ("_publish", one, "c", context, {
            "step_time_s": None, "timing_reason": "selected while it was trained", "seconds": 2.5,
        }),
    ]  # fmt: skip
    assert not {"Scoring", "asked_of", "_time_step"} & set(log.names)


def test_a_cut_is_published_as_json_with_its_result(context) -> None:
    one = trial()
    select._publish(one, CUT, context, {"step_time_s": None, "timing_reason": "why", "seconds": 2.0})
    folder = context.storage.fetch(f"stages/{one.select_key}")
    expected = {
        "kept": {"a": [0, 2]}, "target": 2.0, "speedup": 1.9, "macs_base": 1000, "macs": 526, "params_base": 300,
        "params": 170, "macs_tp_base": 1100, "macs_tp": 580, "reason": "granularity", "steps": 7,
        "removed": [],
    }  # fmt: skip
    assert expected.items() <= json.loads((folder / "cut.json").read_text()).items()
    assert select.load(one, context) == select.Selection(CUT, None, "why", 2.0)
    with pytest.raises(ValueError, match="JSON"):
        select._publish(trial(seed=1), Cut({}, 2.0, float("nan"), 1, 1, 1, 1), context, {"seconds": 1.0})


# The cut.


def test_a_network_from_scratch_has_the_widths_and_new_weights(log, monkeypatch) -> None:
    start, new = nn.Sequential(nn.Conv2d(1, 4, 3)).to("meta"), nn.Sequential(nn.Conv2d(1, 4, 3))
    log.patch(monkeypatch, cut, "groups_of new_model")
    log.answers |= {"new_model": new, "groups_of": "groups"}

    def apply(model, groups, kept) -> None:
        log.calls.append(("apply", model, groups, kept))
        model[0] = nn.Conv2d(1, 2, 3)

    monkeypatch.setattr(cut.surgery, "apply", apply)
    monkeypatch.setattr(cut.refit, "wanted", lambda criterion: True)
    monkeypatch.setattr(cut.refit, "reconstruct", lambda *args, **named: pytest.fail("refitted"))
    one = trial(importance="magnitude-l2", params={"train": "scratch"})
    assert one.from_scratch
    pruned = cut.cut_network(one, start, CUT, "task")
    assert log.calls[1:] == [
        ("new_model", one, "task", torch.device("meta")), ("apply", new, "groups", {"a": (0, 2)})
    ]  # fmt: skip
    (_, traced, *rest), *_ = log.calls
    assert (traced is start, traced is new, rest) == (False, False, [one, "task"])
    assert (pruned.model, pruned.widths) == (new, {"0": ((4, 1), (2, 1))})
    assert start[0].out_channels == 4


def test_a_network_that_removes_tokens_keeps_its_widths(log, monkeypatch) -> None:
    log.patch(monkeypatch, cut, "reduced_network")
    log.answers["reduced_network"] = ("slim", "counts")
    one, start = trial(kind="tokens"), nn.Sequential(nn.Linear(3, 4))
    found = cut.cut_network(one, start, CUT, "task")
    assert found == cut.Pruned("slim", {"0": ((4, 3), (4, 3))}, "counts")
    assert log.calls == [("reduced_network", one, start, CUT, "task")]


def test_a_trained_selection_refits_nothing(log, monkeypatch) -> None:
    log.patch(monkeypatch, cut, "groups_of")
    monkeypatch.setattr(cut.surgery, "apply", log.noting("apply"))
    monkeypatch.setattr(cut.select, "criterion_of", log.noting("criterion_of"))
    one = trial().model_copy(update={"importance": MethodRef(name="own", trained=True)})
    assert cut.cut_network(one, nn.Linear(3, 4), CUT, "task").tokens is None
    assert log.names == ["groups_of", "apply"]


# The base and the timings of a batch.


@pytest.mark.parametrize("kind", ["trained", "file"])
def test_only_given_weights_are_warned_of(log, context, monkeypatch, kind) -> None:
    task = SimpleNamespace(
        data=FACTS, evaluate=lambda *args: METRICS, train=lambda *args, **named: Training((), 0, 0.0)
    )
    monkeypatch.setattr(cell.base, "open_task", lambda *args: task)
    monkeypatch.setattr(cell.base, "_start", lambda *args: nn.Linear(1, 1))
    log.patch(monkeypatch, cell.base, "_warn_near_chance")
    cell.base.run(trial(weights=Weights(kind=kind, identity="i")), context, lambda **facts: None)
    assert log.calls == ([("_warn_near_chance", METRICS, 10)] if kind == "file" else [])


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 7)])
def test_a_batch_has_the_images_shape(log, monkeypatch, shape) -> None:
    log.patch(monkeypatch, cell.measure, "medians_ms")
    log.answers["medians_ms"] = (1.0, 2.0)
    assert cell.measure._many("nets", [torch.zeros(shape)] * 2) == (1.0, 2.0, None)
    ((_, nets, images, pace),) = log.calls
    assert (nets, [one.shape for one in images], pace) == ("nets", [(32, *shape[1:])] * 2, cell.measure.MANY)
