"""Networks that start from weights of other data, as whole calls: which file, which classifier, whose cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import NotSupported
from raybench.pipeline import base, transferred
from raybench.pipeline.context import StageContext
from raybench.selection.problem import Meter
from raybench.selection.records import Cut
from raybench.storage.local import LocalStorage
from raybench.sweep.weights import Weights
from tests.unit.result_rows import trial
from tests.unit.test_pipeline_stages import FACTS

CPU = torch.device("cpu")
TASK = SimpleNamespace(data=FACTS)


@pytest.fixture
def context(tmp_path) -> StageContext:
    return StageContext(LocalStorage(tmp_path))


def noting(monkeypatch, calls: list, place, **answers) -> None:
    """Put functions in `place` that note their arguments; an answer that is a function is called."""
    for name, answer in answers.items():

        def call(*args, name=name, answer=answer, **named):
            calls.append((name, *args, *([named] if named else [])))
            return answer(*args) if callable(answer) and not isinstance(answer, nn.Module) else answer

        monkeypatch.setattr(place, name, call)


def test_weights_of_a_stage_are_its_file(monkeypatch, context) -> None:
    calls = []
    noting(monkeypatch, calls, transferred.cache, read=Path("stages/k"))
    one = trial(weights=Weights(kind="stage", identity="k"))
    assert transferred.given_weights(one, context) == Weights(
        kind="file", path=str(Path("stages/k/model.safetensors")), new_head=True
    )
    assert calls == [("read", context, "k", "base")]
    for other in (trial(), trial(weights=Weights(kind="file", path="/w.pt"))):
        assert transferred.given_weights(other, context) is None


def test_a_network_starts_from_what_the_trial_names(monkeypatch, context) -> None:
    calls, given = [], Weights(kind="file", path="/w", new_head=True)
    noting(monkeypatch, calls, base, given_weights=None, fresh_model="fresh", model_of="published")
    one = trial()
    assert base._start(one, TASK, context) == "fresh"
    assert base.start_of(Path("f"), one, TASK, context) == "published"
    assert calls == [
        ("given_weights", one, context), ("fresh_model", one, TASK, CPU), ("model_of", Path("f"), one, TASK, CPU),
    ]  # fmt: skip
    calls.clear()
    noting(monkeypatch, calls, base, given_weights=given)
    assert base._start(one, TASK, context) == "fresh"
    assert calls[1:] == [("fresh_model", one, TASK, CPU, given)]
    first = SimpleNamespace(prunes_first=True)
    assert base.start_of(Path("f"), first, TASK, context) == "fresh"


@pytest.mark.parametrize("stage", [True, False])
def test_the_source_has_the_classifier_that_its_weights_have(monkeypatch, context, stage) -> None:
    calls, net = [], nn.Linear(2, 3)
    state = {"body.weight": torch.zeros(9, 9), "fc.weight": torch.zeros(7, 2), "fc.bias": torch.zeros(7)}
    given = Weights(kind="file", path="/stage.safetensors") if stage else None
    head = SimpleNamespace(tensors=["fc.weight", "fc.bias", "fc.gone"])
    noting(
        monkeypatch, calls, transferred, given_weights=given, build_model=net, match=SimpleNamespace(state=state),
        read_tensors="tensors", Head=head, load_weights=None, baked=nn.Linear(1, 1).to("meta"),
    )  # fmt: skip
    path = Path("/stage.safetensors" if stage else "/own.pt")
    one = trial(weights=Weights(kind="file", path="/own.pt"), model_params={"w": 1})
    before = torch.get_rng_state()
    where = StageContext(context.storage, device=torch.device("meta"))
    found = transferred.source_network(one, TASK, where)
    assert found.weight.device.type == "meta"
    assert torch.equal(before, torch.get_rng_state())
    facts = FACTS.__class__(**{**vars(FACTS), "classes": 7})
    shapes = next(call for call in calls if call[0] == "match")[1]
    assert {name: value.shape for name, value in shapes.items()} == {"weight": (3, 2), "bias": (3,)}
    assert [call for call in calls if call[0] != "match"] == [
        ("given_weights", one, where), ("build_model", "cifar-resnet20", FACTS, {"w": 1}), ("read_tensors", path),
        ("Head", "cifar-resnet20", FACTS, {"w": 1}), ("build_model", "cifar-resnet20", facts, {"w": 1}),
        ("load_weights", net, path, {"grey": True}), ("baked", net),
    ]  # fmt: skip
    assert next(call for call in calls if call[0] == "match")[2:] == ("tensors", str(path))
    for wrong in ({"body.weight": state["body.weight"]}, {**state, "fc.bias": torch.zeros(6)}):
        noting(monkeypatch, calls, transferred, match=SimpleNamespace(state=wrong))
        with pytest.raises(NotSupported) as caught:
            transferred.source_network(one, TASK, where)
        assert str(caught.value) == (
            f"prune-then-transfer: {path} has no classifier that its channels could be scored with"
        )


def test_a_cut_has_the_costs_of_the_network_that_is_cut(monkeypatch) -> None:
    calls, groups = [], [SimpleNamespace(name="a"), SimpleNamespace(name="b")]
    result = Cut({"a": (0,)}, 2.0, 1.8, 100, 55, 9, 8)
    noting(monkeypatch, calls, transferred, library_counts=("tp base", "tp"), cut_of=result)
    noting(monkeypatch, calls, transferred.Cost, measure="cost")
    noting(monkeypatch, calls, transferred.Problem, of="problem")
    chosen = Cut({"a": (0, 2), "b": (1,)}, 2.0, 2.0, 1, 1, 1, 1, reason="floor", steps=5, selected_ms=3.5)
    one = trial(strategy="local", round_to=4)
    found = transferred.priced({2.0: chosen}, one, "model", "image", groups)
    assert found[2.0] == Cut({"a": (0,)}, 2.0, 1.8, 100, 55, 9, 8, selected_ms=3.5)
    assert calls[:3] == [
        ("measure", "model", "image", groups), ("of", groups, "cost", "local", 4),
        ("library_counts", "model", "image", groups),
    ]  # fmt: skip
    (_, problem, target, solution, *counts), *rest = calls[3:]
    assert (problem, target, counts, rest) == ("problem", 2.0, ["tp base", "tp"], [])
    assert [(kept.tolist(), kept.dtype) for kept in solution.kept] == [([0, 2], np.int64), ([1], np.int64)]
    assert (solution.reason, solution.steps) == ("floor", 5)


def test_targets_are_of_the_network_that_is_cut(monkeypatch) -> None:
    calls = []
    noting(monkeypatch, calls, transferred.Cost, measure="cost")
    monkeypatch.setattr(transferred, "METERS", {"params": lambda cost: ("parameters", cost)})
    found = transferred.meter_of(trial(target="params"), "model", "image", "groups")
    assert found("another cost") == ("parameters", "cost")
    assert calls == [("measure", "model", "image", "groups")]
    monkeypatch.undo()
    assert {"macs": Meter.macs, "params": Meter.params} == transferred.METERS
