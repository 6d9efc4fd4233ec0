"""Trained selections against their formulas in float64, and on crafted cases with known answers."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.groups import surgery
from raybench.methods.episodes import Memory
from raybench.selection.trained import budget_of, learnt_cut
from tests.oracles import nets
from tests.oracles.trained import IMAGES, attached, backward, brute_force, budget


def test_a_budget_counts_exactly_and_chooses_the_lowest_scores_until_it_is_met():
    net, groups = nets.build("plain")
    net.double()
    one = budget(net, groups, 2.0)
    assert one.sizes.tolist() == [5, 6]
    pixels = {"conv1": 64 * 9, "conv2": 16 * 9}
    for kept in itertools.product(range(1, 6), range(1, 7)):
        first, second = kept
        macs = pixels["conv1"] * 3 * first + pixels["conv2"] * first * second + 4 * second
        assert float(one.macs(np.array(kept))) == macs
    assert one.goal == float(one.macs(one.sizes)) / 2
    at = np.array([2.5, 3.25])
    slopes = [pixels["conv1"] * 3 + pixels["conv2"] * 3.25, pixels["conv2"] * 2.5 + 4]
    np.testing.assert_allclose(one.slopes(at), slopes, rtol=1e-12)
    rng = np.random.default_rng(0)
    for speedup in (1.3, 2.0, 3.0):
        scores = {group.name: rng.random(group.size) for group in groups}
        found, plain = budget(net, groups, speedup).choose(scores), brute_force(net, groups, speedup, scores)
        counts = [np.array([len(kept[group.name]) for group in groups]) for kept in (found, plain)]
        near, by_hand = (abs(float(one.macs(one.sizes)) / float(one.macs(count)) / speedup - 1) for count in counts)
        assert near <= by_hand  # as near as the plain walk, or nearer
        for group in groups:  # within a group the lowest go
            worst = np.sort(np.argsort(scores[group.name])[group.size - len(found[group.name]) :])
            assert found[group.name].tolist() == worst.tolist()
    some = budget(net, groups).choose({"conv2": np.arange(6.0)})
    assert list(some) == ["conv2"]  # a group without scores stays whole


def test_the_reason_of_a_learnt_cut():
    net, groups = nets.build("plain")
    net.double()

    def reason(kept, speedup):
        return learnt_cut(net, IMAGES, groups, kept, speedup, strategy="global", round_to=1).reason

    whole = reason({"conv1": [0, 1, 2, 3, 4], "conv2": list(range(6))}, 2.0)
    assert whole.startswith("selection: the training ended at 1.000, where ")
    floor = reason({"conv1": [2], "conv2": [3]}, 50.0)
    assert floor.startswith("floor: best reachable ")
    only = reason({"conv2": [3]}, 50.0)
    assert only.endswith("without a score: conv1")
    whole = float(budget(net, groups).macs(np.array([5, 6])))
    exact = whole / float(budget(net, groups).macs(np.array([3, 4])))
    assert reason({"conv1": [0, 2, 4], "conv2": [1, 2, 3, 5]}, exact) is None


def filters(net, groups):
    """layer -> {channel: the group's unit that it belongs to, with the group's name}, of layers that have filters."""
    found = {}
    for group in groups:
        for m in group.members:
            if m.side == "out" and m.kind in ("conv", "linear", "depthwise"):
                pairs = {int(p): (group.name, int(u)) for p, u in zip(m.positions, m.units, strict=True)}
                found.setdefault(m.layer, {}).update(pairs)
    return found


def by_hand(net, groups, kept, factor, weight):
    """lambda * (weight * mean G_ij^2 + 1/2 ||w||^2 + 1/2 (gamma^2 + beta^2)) by loops; the middle term for None."""
    total = torch.zeros((), dtype=torch.float64)
    for layer, channels in filters(net, groups).items():
        module = net.get_submodule(layer)
        rows = module.weight.flatten(1)
        gone = [c for c, (name, unit) in channels.items() if unit not in kept[name]]
        total = total + sum(rows[c].square().sum() / 2 for c in gone)
        if weight is None or getattr(module, "groups", 1) > 1:
            continue
        for i, j in itertools.product(range(len(rows)), repeat=2):
            if i in gone or j in gone:
                total = total + weight * (rows[i] @ rows[j]) ** 2 / len(rows) ** 2
    for group in groups if weight is not None else ():
        for m in group.members:
            norm = net.get_submodule(m.layer)
            if isinstance(norm, nn.BatchNorm2d):
                out = [int(p) for p, u in zip(m.positions, m.units, strict=True) if u not in kept[group.name]]
                total = total + sum(norm.weight[c] ** 2 + norm.bias[c] ** 2 for c in out) / 2
    return factor * total


@pytest.mark.parametrize("net_name", ["plain", "residual", "depthwise", "grouped"])
@pytest.mark.parametrize(("name", "weight"), [("greg-1", None), ("tpp", 7.0), ("tpp", 0.0)])
def test_the_growing_penalty_is_the_derivative_of_its_formula(name, weight, net_name):
    own = {} if weight is None else {"weight": weight}
    found, net, groups, _ = attached(name, net_name, speedup=1.6, growth=0.25, interval=2, ceiling=0.6, **own)
    kept = {group: set(units.tolist()) for group, units in found._kept.items()}
    for step, factor in enumerate([0, 0, 0.25, 0.25, 0.5, 0.5, 0.6, 0.6, 0.6]):
        assert found.factor == factor
        plain = backward(net, step)
        found.add_gradients()
        penalty = by_hand(net, groups, kept, factor, weight)
        wanted = torch.autograd.grad(penalty, list(net.parameters()), allow_unused=True) if factor else [None] * 99
        for (where, parameter), own_part in zip(net.named_parameters(), wanted, strict=False):
            goal = plain[where] + (0 if own_part is None else own_part)
            torch.testing.assert_close(parameter.grad, goal, rtol=1e-9, atol=1e-12, msg=where)


@pytest.mark.parametrize("name", ["greg-1", "tpp"])
def test_the_filters_of_smallest_magnitude_are_picked_before_training(name):
    net, groups = nets.build("plain")
    net.double()
    for layer, sizes in (("conv1", [3.0, 0.1, 2.0, 4.0, 1.0]), ("conv2", [1.0, 0.2, 5.0, 3.0, 2.0, 0.8])):
        weight = net.get_submodule(layer).weight.data
        weight.copy_(weight.sign() * torch.tensor(sizes)[:, None, None, None])
    macs = budget(net, groups).macs
    speedup = float(macs(np.array([5, 6])) / macs(np.array([4, 4])))
    found = registry.selection.load(name)(interval=1, growth=1.0)
    found.attach(net, budget(net, groups, speedup))
    with pytest.warns(UserWarning, match=r"factor ended at 0 of 1"):
        kept = found.kept()  # 0.1 / 2.02, 0.2 / 2 and 0.8 / 2 are the smallest shares of their layers' means
    assert {group: units.tolist() for group, units in kept.items()} == {"conv1": [0, 2, 3, 4], "conv2": [0, 2, 3, 4]}


def test_the_picked_filters_vanish_and_the_others_stay():
    found, net, _, _ = attached("tpp", interval=1, growth=0.05, weight=1.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    before = net.conv2.weight.detach().clone()
    for _ in range(300):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        found.add_gradients()
        optimizer.step()
    kept = found.kept()
    gone = np.setdiff1d(np.arange(6), kept["conv2"])
    assert len(gone)
    assert net.conv2.weight[gone].abs().max() < 1e-5
    assert net.bn2.bias[gone].abs().max() < 1e-5
    left = net.conv2.weight[kept["conv2"]].detach().norm() / before[kept["conv2"]].norm()
    assert 0.8 < float(left) <= 1.0  # only what they had in common with the others has changed


# --- nppm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net_name", ["plain", "residual", "depthwise", "grouped"])
def test_a_closed_gate_is_a_removed_unit(net_name):
    found, net, groups, before = attached("nppm", net_name, speedup=1.5)
    torch.manual_seed(3)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(net.eval()(images), before.eval()(images))  # all are open at first
    assert {group.name for group in found._groups} == {group.name for group in groups}
    kept = found.kept()
    flat = [unit not in kept[group.name] for group in groups for unit in range(group.size)]
    closed = torch.tensor(flat).split([group.size for group in groups])
    for logits, gone in zip(found._added.gates.source.weight, closed, strict=True):
        logits.data[gone] = -9.0
    gated = net.eval()(images)
    found.fold()
    surgery.apply(before, groups, kept)
    torch.testing.assert_close(gated, before.eval()(images), rtol=1e-9, atol=1e-9)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("shift", [0.0, -4.0])
def test_gates_follow_the_gradients_of_the_formula(ready, shift):
    found, net, _, _ = attached("nppm", speedup=2.0, strength=3.0, batch=2, noise=0.5)
    found._added.double()
    theta = list(found._added.gates.source.weight)
    for one in theta:
        one.data.add_(shift)  # with 0 nearly all gates are open: above the goal; with -4 below
    if ready:
        for accuracy in (0.2, 0.9, 0.4, 0.6):
            found._added.memory.add(torch.rand(11, dtype=torch.float64), torch.tensor(accuracy, dtype=torch.float64))
    seen, taken = [], found._own.step
    found._own.step = lambda: (seen.extend(one.grad.clone() for one in theta), taken())
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randint(0, 4, (6,))
    start = [one.detach().clone() for one in theta]
    predictor = copy.deepcopy(found._added.predictor)
    torch.nn.functional.cross_entropy(net.train()(images), labels).backward()
    assert all(parameter.grad is None for name, parameter in net.named_parameters() if "nppm" not in name)
    assert not net.bn1.training  # the network is in eval mode
    loss = [one.grad.clone() for one in theta]
    found.add_gradients()

    uniform = torch.rand(11, generator=torch.Generator().manual_seed(0))
    own = [one.clone().requires_grad_() for one in start]
    soft = torch.sigmoid((torch.cat(own) - (-uniform.log()).log() + 3) / 0.4)
    hard = (soft >= 0.5).double().detach() + soft - soft.detach()
    first, second = hard[:5].sum(), hard[5:].sum()
    macs, base = 64 * 27 * first + 144 * first * second + 4 * second, 64 * 27 * 5 + 144 * 30 + 24
    cost = torch.autograd.grad(3.0 * torch.log(torch.clamp(macs / base, min=0.5) / 0.5), own, retain_graph=True)
    assert (float(macs) > base / 2) == (shift == 0)
    noise = torch.randn(11, generator=torch.Generator().manual_seed(1)).double()
    guess = predictor((soft + 0.5 * noise).clamp(0, 1)[None])[0]
    predicted = torch.autograd.grad(torch.log(1 / guess), own)
    for got, own_part, r, p in zip(seen, loss, cost, predicted, strict=True):
        across = p - float(own_part @ p) / float(own_part @ own_part) * own_part if ready else 0 * p
        torch.testing.assert_close(got, own_part + (0 if shift else r) + across, rtol=1e-6, atol=1e-12)
    assert all(not torch.equal(one, old) for one, old in zip(theta, start, strict=True))
    assert all(one.grad is None for one in net.parameters())  # nothing is left for another optimizer


def test_the_memory_holds_means_and_merges_with_the_nearest_accuracy_when_full():
    memory = Memory(units=2, most=2, average=2)
    for gates, accuracy in [((0, 1), 0.2), ((1, 1), 0.4), ((1, 0), 0.9), ((1, 0), 0.7), ((0, 0), 0.8)]:
        memory.add(torch.tensor(gates).float(), torch.tensor(accuracy))
    assert len(memory) == 2
    torch.testing.assert_close(memory.gates, torch.tensor([[0.5, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(memory.accuracies, torch.tensor([0.3, 0.8]))
    memory.add(torch.tensor([0.0, 1.0]), torch.tensor(0.6))  # the second of the pair: (0, 0.5) at 0.7
    torch.testing.assert_close(memory.gates, torch.tensor([[0.5, 1.0], [0.5, 0.25]]))
    torch.testing.assert_close(memory.accuracies, torch.tensor([0.3, 0.75]))


def test_the_predictor_learns_what_the_memory_says():
    found, _, _, _ = attached("nppm", batch=4, average=1)
    found._added.double()
    for place in range(8):  # the more gates are open, the better
        gates = (torch.arange(11) < place + 2).double()
        found._added.memory.add(gates, torch.tensor(0.1 * place, dtype=torch.float64))
    before = found._added.predictor(found._added.memory.gates[:8]).detach()
    for _ in range(150):
        found._learn()
        found._steps += 1
    after, wanted = found._added.predictor(found._added.memory.gates[:8]).detach(), found._added.memory.accuracies[:8]
    assert (after - wanted).abs().mean() < 0.3 * (before - wanted).abs().mean()


@pytest.mark.parametrize("kind", ["logits", "hypernet"])
def test_useless_channels_are_closed(kind):
    """Half of the first layer's channels are noise that the classifier reads: closing them raises accuracy."""
    torch.manual_seed(0)
    net = nets.Plain(width=4, out=6)
    _, groups = net, net.groups()
    found = registry.selection.load("nppm")(gates=kind, strength=2.0)
    one = budget_of(net, torch.zeros(1, 3, 8, 8), groups, 1.8, strategy="global", round_to=1, seed=0)
    net.eval()
    with torch.no_grad():
        net.fc.weight[:, [1, 4]] = 0  # two channels of the second layer that nothing reads
    found.attach(net, one)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(64, 3, 8, 8, generator=generator)
    labels = net.eval()(images).argmax(1)
    for _ in range(120):
        outputs = net.train()(images)
        torch.nn.functional.cross_entropy(5 * outputs, labels).backward()
        found.observe(outputs.detach(), labels)
        found.add_gradients()
    kept = found.kept()
    assert not {1, 4} & set(kept["conv2"].tolist())
