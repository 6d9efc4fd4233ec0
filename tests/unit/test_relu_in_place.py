"""In training the CIFAR ResNets rectify in place: the same numbers to the bit, and hooks see what they saw."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybench.models import cifar_resnet
from raybench.models.cifar_resnet import Basic, Bottleneck, ThinResNet, WideResNet, rectified

NETS = {
    "thin": (lambda: ThinResNet([1, 1, 1], 3, 3, 4), 7),
    "basic": (lambda: WideResNet(Basic, (1, 1, 1, 1), 3, 3), 9),
    "bottleneck": (lambda: WideResNet(Bottleneck, (1, 1, 1, 1), 3, 3), 13),
}


def step(net: nn.Module) -> list[torch.Tensor]:
    """The loss of one step, all gradients, and the state after it."""
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(4, 3, 8, 8, generator=draw), torch.tensor([0, 1, 2, 0])
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters()), *net.state_dict().values()]


def recorded(monkeypatch, *, in_place: bool) -> list[bool]:
    """Which ReLUs were in place, as a list that grows; with `in_place` false none is."""
    seen: list[bool] = []
    relu = F.relu

    def run(x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        seen.append(inplace)
        return relu(x, inplace=inplace and in_place)

    monkeypatch.setattr(cifar_resnet.F, "relu", run)
    return seen


@pytest.mark.parametrize("name", NETS)
def test_a_step_is_the_same_to_the_bit(name, monkeypatch) -> None:
    torch.manual_seed(0)
    make, relus = NETS[name]
    net = make().train()
    other = copy.deepcopy(net)
    with monkeypatch.context() as patch:
        recorded(patch, in_place=False)
        expected = step(other)
    seen = recorded(monkeypatch, in_place=True)
    found = step(net)
    assert seen == [True] * relus
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    seen.clear()
    net.eval()(torch.zeros(1, 3, 8, 8))
    assert seen == [False] * relus, "what evaluates, traces and scores sees plain ReLUs"


@pytest.mark.parametrize("hook", ["forward", "full_backward", "full_backward_pre"])
def test_a_norm_with_a_hook_keeps_its_output(hook, monkeypatch) -> None:
    torch.manual_seed(0)
    net = NETS["thin"][0]().train()
    expected, kept = step(copy.deepcopy(net)), []
    getattr(net.layer1[0].bn1, f"register_{hook}_hook")(lambda module, *tensors: kept.append(tensors[-1]))
    seen = recorded(monkeypatch, in_place=True)
    found = step(net)
    assert seen == [True, False, True, True, True, True, True]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    (last,) = kept
    assert float((last if hook == "forward" else last[0]).detach().min()) < 0


@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(1, 2), nn.BatchNorm2d(2).eval()])
def test_what_may_give_out_the_memory_of_another_is_left_alone(norm) -> None:
    images = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1).repeat(2, 1, 2, 2)
    before = images.clone()
    assert float(rectified(norm, images).detach().min()) >= 0
    assert torch.equal(images, before)
