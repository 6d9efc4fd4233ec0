"""`sensitivity` as whole calls and records: which network, scores, cuts, images and split, and every figure by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported
from raybench.groups.records import Group
from raybench.pipeline import sensitivity as room
from raybench.pipeline.context import StageContext
from raybench.pipeline.sensitivity import GroupCut, Sensitivity, sensitivity
from raybench.storage.local import LocalStorage
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
FACTS = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.5,), "")
GROUPS = [Group("a", 4, ()), Group("b", 2, (), "mlp"), Group("c", 10, (), "heads", 5)]
SCORES = [np.array([0.4, 0.1, 0.3, 0.1]), None, np.arange(10.0)]
METRICS = {0: 90.0, 1: 80.0, 2: 70.25, 3: 60.0, 4: 50.0}


@pytest.fixture
def calls(monkeypatch) -> dict[str, list]:
    """What is called with what; the metric falls with every evaluation."""
    made: dict[str, list] = {}

    def noting(name, answer):
        def call(*args, **named):
            made.setdefault(name, []).append((*args, *([named] if named else [])))
            return answer(*args) if callable(answer) else answer

        return call

    net = nn.Linear(1, 1).train()
    made["net"] = [net]
    task = SimpleNamespace(metric="top1", data=FACTS)
    task.evaluate = noting("evaluate", lambda *args: {"top1": METRICS[len(made["evaluate"]) - 1], "loss": 1.0})
    made["task"] = [task]
    scorer = SimpleNamespace(scores=lambda: made.get("scores", SCORES))
    cost = SimpleNamespace(macs_base=100, sizes=np.array([4, 2, 10]), macs=noting("macs", lambda c: int(c.sum()) * 5))
    for name, answer in (
        ("open_task", task), ("model_of", lambda *args: net), ("groups_of", GROUPS), ("criterion_of", "criterion"),
        ("calibration_of", "images"), ("reconstruct", None),
        ("Scoring", SimpleNamespace(scorer=noting("scorer", scorer))),
    ):  # fmt: skip
        monkeypatch.setattr(room, name, noting(name, answer))
    monkeypatch.setattr(room.base, "run", noting("run", SimpleNamespace(folder="dense")))
    monkeypatch.setattr(room.surgery, "apply", noting("apply", None))
    monkeypatch.setattr(room.Cost, "measure", noting("measure", cost))
    return made


@pytest.fixture
def context(tmp_path) -> StageContext:
    return StageContext(LocalStorage(tmp_path), data_roots={"digits": tmp_path})


def test_every_figure_of_every_cut(calls, context) -> None:
    said, one = [], trial(seed=3, importance="taylor")
    found = sensitivity(one, context, (0.25, 0.5), "val", said.append)
    assert found == Sensitivity("top1", 90.0, "val", (
        GroupCut("a", "channels", 4, 0.25, 3, 100 / 75, 80.0, 10.0),
        GroupCut("a", "channels", 4, 0.5, 2, 100 / 70, 70.25, 19.75),
        GroupCut("c", "heads", 10, 0.25, 8, 100 / 70, 60.0, 30.0),
        GroupCut("c", "heads", 10, 0.5, 5, 100 / 55, 50.0, 40.0),
    ), ("b",))  # fmt: skip
    assert all(isinstance(cut.speedup, float) for cut in found.cuts)
    assert said == ["group 1 of 3, a: 80.00, 70.25", "group 3 of 3, c: 60.00, 50.00"]


def test_every_call_on_the_way(calls, context) -> None:
    one, net, task = trial(seed=3, importance="taylor"), calls["net"][0], calls["task"][0]
    sensitivity(one, context, (0.25, 0.5), "val", lambda line: None)
    ((of, where, note),) = calls["run"]
    assert (of, where, note(resumed_from=1)) == (one, context, None)
    assert calls["open_task"] == [(one, context.data_roots, CPU, context.storage)]
    assert calls["model_of"] == [("dense", one, task, CPU)]
    assert not net.training
    assert calls["groups_of"] == [(net, one, task)]
    assert calls["criterion_of"] == [(one,)]
    assert calls["calibration_of"] == [("criterion", one, task)]
    assert calls["Scoring"] == [("criterion", net, "images", 3)]
    assert calls["scorer"] == [(GROUPS,)]
    ((model, example, groups),) = calls["measure"]
    assert (model, example.shape, groups) == (net, (1, 1, 8, 8), GROUPS)
    (first, split), *others = calls["evaluate"]
    assert (first is net, split, [how for _, how in others]) == (True, "val", ["val"] * 4)
    cuts = [(slim, groups, {name: list(kept) for name, kept in chosen.items()})
            for slim, groups, chosen in calls["apply"]]  # fmt: skip
    assert [chosen for _, _, chosen in cuts] == [
        {"a": [0, 2, 3]}, {"a": [0, 2]}, {"c": [2, 3, 4, 5, 6, 7, 8, 9]}, {"c": [5, 6, 7, 8, 9]},
    ]  # fmt: skip
    for (slim, _, kept), (evaluated, _), refitted in zip(cuts, others, calls["reconstruct"], strict=True):
        assert slim is evaluated is refitted[2] is not net
        criterion, dense, _, groups, chosen, images = refitted
        assert (criterion, dense, groups, images) == ("criterion", net, GROUPS, "images")
        assert {name: list(units) for name, units in chosen.items()} == kept
    assert len({id(slim) for slim, _, _ in cuts}) == 4
    assert [list(counts) for (counts,) in calls["macs"]] == [[3, 2, 10], [2, 2, 10], [4, 2, 8], [4, 2, 5]]


@pytest.mark.parametrize(("ratio", "kept"), [(0.1, 4), (0.15, 3), (0.9, 1), (0.99, 1), (0.74, 1), (0.6, 2)])
def test_at_least_the_fewest_units_stay(calls, context, ratio, kept) -> None:
    calls["scores"] = [SCORES[0], None, None]
    (cut,) = sensitivity(trial(), context, (ratio,), "test", lambda line: None).cuts
    assert (cut.kept, cut.ratio) == (kept, ratio)


def test_a_criterion_that_scores_nothing_is_told(calls, context) -> None:
    calls["scores"] = [None] * 3
    with pytest.raises(NotSupported) as caught:
        sensitivity(trial(), context, (0.5,), "test", lambda line: None)
    assert str(caught.value) == "magnitude-l2 scores no channel of cifar-resnet20"
    assert "evaluate" not in calls
