"""Each regularizer against autograd's derivative of its penalty, step by step, and what it leaves behind."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raybench import registry
from raybench.errors import NotSupported
from raybench.groups.records import Group, Groups
from raybench.scoring.scorer import Scorer
from tests.oracles import formulas, nets

ALL = sorted(registry.regularizer.entries())
GROUPWISE = ("group-lasso", "group-norm", "growing-reg")
BATCH_NORMS = ("bn-scale", "bn-group-lasso")  # these act on batch norms alone


def bound(name, net_name="plain", **params):
    net, groups = nets.build(net_name)
    net.double()
    regularizer = registry.regularizer.load(name)(**params)
    regularizer.bind(net, groups)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    return regularizer, net, groups


def own_weights(net, group):
    """unit -> list of 0-d tensors (with gradient) of all scored weights that the unit owns, member by member."""
    found = [[] for _ in range(group.size)]
    for member in group.members:
        if member.kind == "parameter":  # a position embedding, which no criterion scores
            continue
        weight = net.get_submodule(member.layer).weight
        for position, unit in zip(member.positions, member.units, strict=True):
            found[unit] += [weight[index] for index in formulas.entries(net, member, int(position))]
    return found


def squared_norms(net, group):
    return torch.stack([sum(w**2 for w in weights) for weights in own_weights(net, group)])


def penalty(name, net, groups):
    """The papers' penalties with the regularizers' default parameters."""
    total = 0.0
    for group in groups:
        if name == "bn-scale":  # Liu et al., eq. 1: lambda sum |gamma|
            norms = {m.layer for m in group.members if m.kind == "norm"}
            total = total + 1e-5 * sum(net.get_submodule(n).weight.abs().sum() for n in norms)
            continue
        if name == "bn-group-lasso":  # BNScalePruner(group_lasso=True) is the derivative of n sqrt(mean gamma^2 + 1e-9)
            scales = [own_weights(net, Group("", group.size, (m,))) for m in group.members if m.kind == "norm"]
            for k in range(group.size if scales else 0):
                squares = sum(w**2 for scale in scales for w in scale[k])
                total = total + 1e-5 * len(scales) * (squares / len(scales) + 1e-9).sqrt()
            continue
        squares = squared_norms(net, group)
        if name == "group-lasso":  # Wen et al., eq. 3: lambda sum_g ||w_g||_2
            total = total + 5e-4 * squares.sqrt().sum()
        elif name == "group-norm":  # Fang et al., eq. 4-5, gamma constant
            s = squares.detach().sqrt()
            gamma = torch.stack([2 ** (4.0 * (max(s) - s[k]) / (max(s) - min(s))) for k in range(group.size)])
            total = total + 5e-4 / 2 * (gamma * squares).sum()
        else:  # growing-reg before the first epoch's end: lambda / 2 ||w_k||^2
            total = total + 1e-4 / 2 * squares.sum()
    return total


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@pytest.mark.parametrize(
    ("name", "net_name"),
    [c for c in itertools.product(ALL, nets.NETS) if c not in [(name, "attention") for name in BATCH_NORMS]],
)
def test_gradient_is_autograds_derivative_of_the_penalty(name, net_name):
    regularizer, net, groups = bound(name, net_name)
    regularizer.add_gradients()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    penalty(name, net, groups).backward()
    touched = 0
    for ours, p in zip(found, net.parameters(), strict=True):
        if p.grad is None:
            assert not ours.any()
            continue
        touched += 1
        assert relative(ours, p.grad) < 1e-5
    assert touched


@pytest.mark.parametrize("name", GROUPWISE)
def test_the_derivative_notices_a_missing_residual_member(name):
    net, groups = nets.build("residual")
    net.double()
    less = Groups(tuple(Group(g.name, g.size, tuple(m for m in g.members if m.layer != "conv2")) for g in groups))
    regularizer = registry.regularizer.load(name)()
    regularizer.bind(net, less)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    regularizer.add_gradients()
    found = net.stem.weight.grad.clone(), net.conv2.weight.grad.clone()
    net.zero_grad()
    penalty(name, net, groups).backward()
    assert max(relative(found[0], net.stem.weight.grad), relative(found[1], net.conv2.weight.grad)) > 1e-3


def test_growing_reg_follows_its_update_rule_step_by_step():
    regularizer, net, groups = bound("growing-reg", strength=1e-2, growth=1e-3)
    factors = {g.name: torch.full((g.size,), 1e-2, dtype=torch.float64) for g in groups}
    for _ in range(3):
        regularizer.end_epoch()
        for group in groups:
            squares = squared_norms(net, group).detach()
            for k in range(group.size):
                weakness = (max(squares) - squares[k]) / (max(squares) - min(squares))
                factors[group.name][k] += 1e-3 * weakness
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1 + 0.1 * torch.rand_like(p))
    for name, expected in factors.items():
        torch.testing.assert_close(regularizer.state_dict()[name], expected)
    regularizer.add_gradients()
    own, name = net.bn1.weight.grad, groups.groups[0].name
    torch.testing.assert_close(own, factors[name] * net.bn1.weight.detach())


def test_growing_reg_goes_on_after_a_kill():
    first, net, groups = bound("growing-reg")
    first.end_epoch()
    second = registry.regularizer.load("growing-reg")()
    second.bind(net, groups)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    first.end_epoch()
    second.end_epoch()
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


@pytest.mark.parametrize("name", GROUPWISE)
def test_equal_and_zero_units_give_no_nan(name):
    regularizer, net, _ = bound(name)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.5)
        net.conv1.weight[1] = net.bn1.weight[1] = 0
        net.conv2.weight[:, 1] = 0
    regularizer.add_gradients()
    regularizer.end_epoch()
    regularizer.add_gradients()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_a_penalty_on_batch_norms_needs_batch_norm(name):
    with pytest.raises(NotSupported, match=f"{name} needs batch norm"):
        bound(name, "attention")


def pulls(name, net_name, **params):
    """Parameter name -> the penalty's gradient there."""
    regularizer, net, _ = bound(name, net_name, **params)
    regularizer.add_gradients()
    return {n: p.grad for n, p in net.named_parameters()}


@pytest.mark.parametrize("name", GROUPWISE)
def test_what_has_no_vote_is_not_penalised(name):
    found = pulls(name, "attention")
    assert not found["pos"].any()
    assert found["norm1.weight"].all()  # scored, so penalised
    assert not any(found[n].any() for n in found if n.endswith("bias"))


def test_a_vote_and_a_penalty_go_together():
    """Exactly the weights that magnitude-l2 counts are penalised."""
    net, groups = nets.build("attention")
    scores = Scorer(registry.importance.load("magnitude-l2")(), net, groups).scores()
    for name in dict(net.named_parameters()):
        if not name.endswith("bias"):
            changed, _ = nets.build("attention")
            with torch.no_grad():
                changed.get_parameter(name)[..., :2] *= 3
            again = Scorer(registry.importance.load("magnitude-l2")(), changed, groups).scores()
            votes = not all(np.array_equal(a, b) for a, b in zip(scores, again, strict=True))
            assert votes == bool(pulls("group-norm", "attention")[name].any()), name


@pytest.mark.parametrize(
    ("name", "net_name", "switch", "spared"),
    [
        ("growing-reg", "plain", "norm_scales", {"bn1.weight", "bn2.weight"}),
        ("growing-reg", "attention", "norm_scales", {"norm1.weight", "norm2.weight"}),
        ("group-norm", "plain", "layer_norm", set()),
        ("group-norm", "attention", "layer_norm", {"norm1.weight", "norm2.weight"}),
    ],
)
def test_switched_off_norm_scales_count_but_are_not_penalised(name, net_name, switch, spared):
    whole, part = pulls(name, net_name), pulls(name, net_name, **{switch: False})
    for n, gradient in part.items():
        assert torch.equal(gradient, torch.zeros_like(gradient) if n in spared else whole[n]), n


def test_frozen_weights_stay_without_gradient():
    regularizer, net, _ = bound("group-lasso")
    net.conv1.weight.grad = None
    regularizer.add_gradients()
    assert net.conv1.weight.grad is None


@pytest.mark.parametrize("name", ALL)
def test_useless_channels_end_up_smallest(name):
    """Channels 1 and 3 of the first layer only see noise: their outgoing weights start at the size of the others'."""
    net, groups = nets.build("plain", seed=4)
    with torch.no_grad():
        for c in (1, 3):
            net.bn1.bias[c], net.bn1.weight[c] = -50.0, 1.0  # the ReLU never fires: no gradient from the loss
    strength = {"bn-scale": 3e-2, "bn-group-lasso": 3e-2, "group-lasso": 2e-2}.get(name, 1e-2)
    params = {"growth": 5e-2} if name == "growing-reg" else {}
    regularizer = registry.regularizer.load(name)(strength=strength, **params)
    regularizer.bind(net, groups)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = nets.images(32)
    for step in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        regularizer.add_gradients()
        optimizer.step()
        if step % 6 == 5:
            regularizer.end_epoch()
    sizes = net.bn1.weight.detach().abs() if name in BATCH_NORMS else squared_norms(net, groups.groups[0]).detach()
    assert set(sizes.argsort()[:2].tolist()) == {1, 3}
