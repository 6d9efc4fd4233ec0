"""resrep against its formula in float64, and on crafted cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.records import Group, Groups
from raybench.methods.trained_selection import Budget
from tests.oracles import nets
from tests.oracles.trained import attached, backward, brute_force, budget


def test_resrep_adds_the_masked_gradient_and_the_rows_direction():
    found, net, _, _ = attached("resrep", strength=0.3, start=0, every=1000)
    names = [name for name, _ in net.named_parameters() if name.endswith("compactor.weight")]
    assert names == ["bn1.compactor.weight", "bn2.compactor.weight"]
    torch.manual_seed(1)
    for one in found._compactors:
        one.weight.data.add_(torch.randn_like(one.weight) / 3)
    found._compactors[0].mask[[1, 3]] = 0.0
    plain = backward(net)
    found.add_gradients()
    for name in names:
        matrix, mask = net.get_parameter(name).detach(), net.get_submodule(name.removesuffix(".weight")).mask
        for row in range(len(matrix)):
            norm = float(sum(value * value for value in matrix[row])) ** 0.5
            wanted = float(mask[row]) * plain[name][row] + 0.3 * matrix[row] / norm
            torch.testing.assert_close(net.get_parameter(name).grad[row], wanted, rtol=1e-12, atol=0)
    untouched = {name: value for name, value in plain.items() if name not in names}
    assert all(torch.equal(net.get_parameter(name).grad, value) for name, value in untouched.items())


def test_resrep_masks_the_smallest_rows_a_few_at_a_time_until_the_speed_up_is_met():
    net, groups = nets.build("plain")
    macs = budget(net.double(), groups).macs
    speedup = float(macs(np.array([5, 6])) / macs(np.array([2, 5])))  # the four smallest rows below
    found, net, groups, before = attached("resrep", speedup=speedup, start=1, every=2, rows=2)
    for one, scale in zip(found._compactors, ([5, 1, 4, 2, 9], [3, 10, 6, 8, 7, 11]), strict=True):
        one.weight.data.copy_(torch.diag(torch.tensor(scale, dtype=torch.float64)))
    masks = []
    for epoch in range(2):
        for _ in range(7):
            backward(net)
            found.add_gradients()
            masks.append([sorted((one.mask[:, 0] == 0).nonzero()[:, 0].tolist()) for one in found._compactors])
        assert epoch or masks == [[[], []]] * 7  # nothing in the first epoch
        found.end_epoch()
    assert masks[7] == [[], []]  # every second step after it
    assert masks[8:10] == [[[1, 3], []]] * 2  # norms 1 and 2
    assert masks[10:] == [[[1, 2, 3], [0]]] * 4  # 3 and 4, and no more
    wanted = brute_force(before, groups, speedup, {"conv1": [5, 1, 4, 2, 9], "conv2": [3, 10, 6, 8, 7, 11]})
    with pytest.warns(UserWarning, match=r"4 of 4 rows that go have norms above 0.001, up to 4"):
        kept = found.kept()
    assert {name: rows.tolist() for name, rows in kept.items()} == wanted == {"conv1": [0, 4], "conv2": [1, 2, 3, 4, 5]}


@pytest.mark.parametrize(("start", "every", "gone"), [(9, 1, 0), (0, 1, 2)])
def test_resrep_meets_the_speed_up_where_the_stage_was_too_short(start, every, gone):
    found, net, groups, before = attached("resrep", start=start, every=every, rows=2)
    found._compactors[0].weight.data.mul_(torch.tensor([5.0, 1, 4, 2, 9])[:, None])
    backward(net)
    found.add_gradients()
    assert sum(int((one.mask == 0).sum()) for one in found._compactors) == gone
    with pytest.warns(UserWarning, match="have norms above"):
        kept = found.kept()
    scores = {"conv1": np.array([5.0, 1, 4, 2, 9]), "conv2": np.ones(6)}
    wanted = budget(before, groups).choose(scores)
    assert {name: rows.tolist() for name, rows in kept.items()} == {
        name: rows.tolist() for name, rows in wanted.items()
    }


@pytest.mark.parametrize("bias", [False, True])
def test_resrep_folds_into_a_network_that_computes_the_same(bias):
    found, net, groups, before = attached("resrep", "residual" if bias else "plain", start=0, every=1, rows=100)
    torch.manual_seed(2)
    images = torch.randn(64, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(before.eval()(images), net.eval()(images))  # the identity at first
    for one in found._compactors:
        one.weight.data.add_(torch.randn_like(one.weight) / 4)
    backward(net)
    found.add_gradients()
    for one in found._compactors:
        one.weight.data[one.mask[:, 0] == 0] *= 1e-7  # as training leaves them
    for _ in range(400):
        net.train()(images)  # statistics settle
    trained, wanted = net(images).detach(), net.eval()(images).detach()
    kept = found.kept()
    found.fold()
    assert list(net.state_dict()) == list(before.state_dict())
    torch.testing.assert_close(net(images), wanted, rtol=0, atol=1e-9)
    net.float()
    torch.testing.assert_close(net(images.float()), wanted.float(), rtol=0, atol=1e-5)
    surgery.apply(net, groups, kept)
    torch.testing.assert_close(net(images.float()), wanted.float(), rtol=0, atol=1e-5)  # rows that go leave no trace
    torch.testing.assert_close(net.train()(images.float()), trained.float(), rtol=0, atol=2e-3)  # and in training


def test_resrep_leaves_what_several_layers_make_whole():
    found, _, groups, _ = attached("resrep", "residual", strategy="protected-global")
    assert [block.group for block in found._blocks] == [g.name for g in groups if len({
        m.layer for m in g.members if m.side == "out" and m.kind == "conv"}) == 1]  # fmt: skip
    with pytest.warns(UserWarning, match="have norms above"):
        kept = found.kept()
    assert set(kept) == {block.group for block in found._blocks}


def test_resrep_says_why_it_can_cut_nothing():
    with pytest.raises(NotSupported, match=r"resrep needs convolutions inside a block.*found none, e\.g\. \w+: "):
        attached("resrep", "depthwise")


class Between(nn.Module):
    """A convolution whose batch norm stands behind the activation."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.act, self.place = nn.ReLU(inplace=place == "in place"), place

    def forward(self, x):
        x = self.conv(x)
        return self.head(self.norm(x if self.place == "behind" else self.act(x)))


@pytest.mark.parametrize(("place", "fits"), [("behind", True), ("activation", False), ("in place", False)])
def test_a_batch_norm_must_stand_right_behind_its_convolution(place, fits):
    net = Between(place).double()
    sides = [("conv", "conv", "out"), ("norm", "norm", "out"), ("head", "conv", "in")]
    groups = Groups((Group("conv", 4, tuple(nets.member(*side, 4) for side in sides)),))
    one = registry.selection.load("resrep")()
    if fits:
        one.attach(net, budget(net, groups))
        assert isinstance(one._budget, Budget)
        return
    with pytest.raises(NotSupported, match="something stands between"):
        one.attach(net, budget(net, groups))
