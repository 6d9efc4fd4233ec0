"""Token methods and trained selections in the pipeline, as whole calls, cuts and files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import NotSupported
from raybench.pipeline import tokens, trained
from raybench.selection.records import Cut
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
IMAGE = torch.zeros(1, 3, 8, 8)


class Plain:
    """An object with attributes that can be a key."""

    def __init__(self, **attributes) -> None:
        vars(self).update(attributes)


def test_token_cuts_are_found_for_each_speed_up_and_timed_once(monkeypatch) -> None:
    calls, net = [], nn.Linear(2, 3)
    reducer = Plain(attach=lambda *args: calls.append(("attach", *args)) or nn.Linear(1, 1))
    macs = {(reducer, (1, 2)): 40, (reducer, (3, 4)): 20}
    cost = SimpleNamespace(macs_base=100, params_base=50, shape="shape", macs=lambda *args: macs[args])
    counts = {2.0: SimpleNamespace(removed=(1, 2), reason=None), 4.0: SimpleNamespace(removed=(3, 4), reason="floor")}
    monkeypatch.setattr(tokens, "reducer_named", lambda *args: calls.append(("named", *args)) or reducer)
    monkeypatch.setattr(tokens.TokenCost, "measure", lambda *args: calls.append(("measure", *args)) or cost)
    monkeypatch.setattr(tokens, "find_counts", lambda *args: calls.append(("find", *args)) or counts[args[2]])
    clock = iter([1.0, 3.5])
    monkeypatch.setattr(tokens.time, "perf_counter", lambda: next(clock))
    machine = SimpleNamespace(timed=lambda timing: (timing(), "why"))
    trials = [trial("tome", params={"a": 1}, speedup=speedup, kind="tokens") for speedup in (2.0, 4.0)]
    found = tokens.token_cuts(trials, net, IMAGE, machine)
    same = {"kept": {}, "macs_base": 100, "params_base": 50, "params": 52, "steps": 1}
    assert found == tokens.TimedCuts({
        2.0: Cut(target=2.0, speedup=2.5, macs=40, removed=(1, 2), **same),
        4.0: Cut(target=4.0, speedup=5.0, macs=20, removed=(3, 4), reason="floor", **same),
    }, 2.5, "why")  # fmt: skip
    assert calls == [
        ("named", "tome", {"a": 1}), ("measure", net, IMAGE), ("find", reducer, cost, 2.0),
        ("attach", "shape", (1, 2)), ("find", reducer, cost, 4.0), ("attach", "shape", (3, 4)),
        ("find", reducer, cost, 2.0),
    ]  # fmt: skip


def test_tokens_are_removed_from_a_copy_by_the_trials_seed(monkeypatch) -> None:
    calls, start = [], nn.Linear(1, 1)
    monkeypatch.setattr(tokens, "reducer_named", lambda *args: calls.append(args) or "reducer")
    monkeypatch.setattr(tokens, "example_of", lambda *args: calls.append(args) or "image")
    monkeypatch.setattr(tokens, "reduced", lambda *args: calls.append(args) or ("net", "counts"))
    one = trial("tome", params={"a": 1}, seed=7, kind="tokens")
    cut = Cut({}, 2.0, 2.0, 1, 1, 1, 1, removed=(1, 2))
    assert tokens.reduced_network(one, start, cut, SimpleNamespace(data="facts")) == ("net", "counts")
    copied = calls[2][0]
    assert calls == [("facts", CPU), ("tome", {"a": 1}), (copied, "image", "reducer", (1, 2), 7)]
    assert copied is not start
    assert torch.equal(copied.weight, start.weight)


def test_a_trained_selection_is_attached_with_its_budget(monkeypatch) -> None:
    calls, net = [], nn.Linear(1, 1)

    class Own:
        alone = False

        def __init__(self, **params) -> None:
            self.params = params

        def attach(self, *args) -> None:
            calls.append(("attach", *args))

    monkeypatch.setattr(trained.registry.selection, "load", lambda name: {"own": Own}[name])
    for name, answer in (("groups_of", ["group"]), ("example_of", "image"), ("budget_of", "budget")):
        monkeypatch.setattr(
            trained, name, lambda *args, name=name, answer=answer, **how: calls.append((name, *args, how)) or answer
        )
    one = trial("own", params={"a": 1}, seed=7, strategy="local", round_to=4, processes=2)
    task = SimpleNamespace(data="facts")
    assert trained.attached(one, net, task).params == {"a": 1}
    assert calls == [
        ("groups_of", net, one, task, {}), ("example_of", "facts", CPU, {}),
        ("budget_of", net, "image", ["group"], 2.0, {"strategy": "local", "round_to": 4, "seed": 7, "epochs": 2}),
        ("attach", net, "budget"),
    ]  # fmt: skip
    Own.alone = True
    with pytest.raises(NotSupported) as caught:
        trained.attached(one, net, task)
    assert str(caught.value) == "own is trained by one process; the cell has 2"
    assert trained.attached(trial("own"), net, task).params == {}
    with pytest.raises(NotSupported) as caught:
        trained.attached(trial("own", strategy="optimal"), net, task)
    assert str(caught.value) == "own ranks units while it trains; strategy optimal ranks none"
    monkeypatch.setattr(trained, "groups_of", lambda *args: [])
    with pytest.raises(NotSupported) as caught:
        trained.attached(one, net, task)
    assert str(caught.value) == "cifar-resnet20 has nothing to prune: no group of channels was found"


def test_what_a_trained_selection_keeps_is_a_file_of_its_stage(monkeypatch, tmp_path) -> None:
    calls = []

    class Own(trained.TrainedSelection):
        def __init__(self) -> None:
            pass

        def attach(self, *args) -> None:
            pass

        def kept(self):
            return {"a": np.array([0, 2]), "b": [1]}

        def fold(self) -> None:
            calls.append("fold")

    trained.settle(SimpleNamespace(kept=None), tmp_path)
    assert not list(tmp_path.iterdir())
    Own.__abstractmethods__ = frozenset()
    trained.settle(Own(), tmp_path)
    assert json.loads((tmp_path / "kept.json").read_text()) == {"a": [0, 2], "b": [1]}
    assert calls == ["fold"]
    monkeypatch.setattr(trained.cache, "content_of", lambda folder, name: (folder / name).read_bytes())
    monkeypatch.setattr(trained, "example_of", lambda *args: ("image", *args))
    monkeypatch.setattr(trained, "learnt_cut", lambda *args, **how: (args, how))
    one, net, task = trial(strategy="local", round_to=4), nn.Linear(1, 1), SimpleNamespace(data="facts")
    (*first, kept, target), how = trained.cut_of(one, tmp_path, net, "groups", task)
    assert (first, target) == ([net, ("image", "facts", CPU), "groups"], 2.0)
    assert {name: (units.tolist(), units.dtype) for name, units in kept.items()} == {
        "a": ([0, 2], np.int64), "b": ([1], np.int64),
    }  # fmt: skip
    assert how == {"strategy": "local", "round_to": 4}
