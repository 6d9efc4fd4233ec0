"""Networks of a trial: weights by seed or file, groups that are found once, images where the network lies."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from raybench.pipeline import measure, network
from raybench.selection.records import Cut
from raybench.sweep.trial import Weights
from tests.unit.test_pipeline_stages import CPU, FACTS, Task, trial_of


def test_networks_are_built_by_the_base_seed_and_filled_with_given_weights(monkeypatch) -> None:
    built, filled, traced, task = [], [], [], Task()

    def build(name, data, params):
        built.append((name, data, params))
        return nn.Linear(2, 2)

    monkeypatch.setattr(network, "build_model", build)
    monkeypatch.setattr(network, "fill_from", lambda *args: filled.append(args))
    monkeypatch.setattr(network, "trace", lambda *args, **named: traced.append((args, named)) or "groups")
    one = trial_of(model_params={"width": 4}, prune=("mlp",), keep=("a",), only=("b",))
    before = torch.get_rng_state()
    first, second = network.fresh_model(one, task, CPU), network.fresh_model(one, task, CPU)
    other = network.fresh_model(one.model_copy(update={"base_seed": 5}), task, CPU)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first.weight, nn.Linear(2, 2).weight)
    assert built == [("test-convnet", FACTS, {"width": 4})] * 3
    assert filled == []
    given = Weights(kind="hub", identity="timm:x")
    net = network.fresh_model(one.model_copy(update={"weights": given}), task, CPU)
    ((model, weights, head),) = filled
    assert (model, weights) == (net, given)
    assert (head.name, head.data, head.params) == ("test-convnet", FACTS, {"width": 4})
    monkeypatch.setattr(network, "_known", {})
    assert network.groups_of(net, one, task) == "groups"
    (((model, example), named),) = traced
    assert (model, tuple(example.shape), float(example.abs().sum())) == (net, (1, 1, 8, 8), 0.0)
    assert named == {"prune": ("mlp",), "classes": 10, "protect": ("a",), "only": ("b",)}


def test_groups_of_a_library_s_network_are_found_once(monkeypatch) -> None:
    traced, task = [], Task()
    monkeypatch.setattr(network, "trace", lambda model, image, **named: traced.append(named) or len(traced))
    monkeypatch.setattr(network, "_known", {})
    net, wider = nn.Linear(2, 2), nn.Linear(3, 2)
    one = trial_of()
    assert [network.groups_of(net, one, task) for _ in range(3)] == [1, 1, 1]
    others = [
        trial_of(model="timm:resnet18"), trial_of(model_params={"width": 4}), trial_of(keep=("a",)),
        trial_of(only=("a",)), trial_of(prune=("mlp",)),
    ]  # fmt: skip
    assert [network.groups_of(net, other, task) for other in others] == [2, 3, 4, 5, 6]
    assert network.groups_of(wider, one, task) == 7
    assert network.groups_of(nn.Linear(2, 2).eval(), one, task) == 8
    task.data = dataclasses.replace(FACTS, classes=3)
    assert network.groups_of(net, one, task) == 9
    task.data = dataclasses.replace(FACTS, image_size=16)
    assert network.groups_of(net, one, task) == 10
    task.data = FACTS
    assert network.groups_of(net, one, task) == 1
    monkeypatch.setattr(network, "KNOWN", 10)
    assert network.groups_of(net, trial_of(keep=("b",)), task) == 11  # in place of the first
    assert network.groups_of(net, one, task) == 12
    own = trial_of(model="mine:net")  # its code may do one thing or another by its weights
    assert [network.groups_of(net, own, task) for _ in range(2)] == [13, 14]


def test_images_lie_where_the_network_is(monkeypatch) -> None:
    """`meta` stands for any device that isn't the processor."""
    meta, seen = torch.device("meta"), []
    image = network.example_of(FACTS, meta)
    assert (image.device, tuple(image.shape)) == (meta, (1, 1, 8, 8))
    monkeypatch.setattr(measure, "count_macs", lambda model, example: seen.append(example.device) or 7)
    measure.check_cost(nn.Linear(1, 1), Cut({}, 2.0, 2.0, 9, 7, 9, 2), Task(), meta)
    assert seen == [meta]
