"""Cut networks are compared with the whole one whose channels are gone: what the graph takes for harmless is found."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import raybench
from raybench.errors import NotSupported, UserError
from raybench.groups import surgery
from raybench.groups.cost import count_macs
from raybench.groups.proof import refuted
from raybench.groups.records import Group, Groups
from raybench.groups.trace import trace
from tests.oracles.grouping import check_groups, worst
from tests.pruning_nets import IMAGE, Chain


def traced(model: nn.Module) -> Groups:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return trace(model.eval(), IMAGE[:1])


def overwritten(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :4] = 0
    return y


def shifted(x: Tensor) -> Tensor:
    return torch.cat([x[:, :4].roll(1, 2), x[:, 4:8].roll(-1, 2), x[:, 8:]], 1)


def graded(x: Tensor) -> Tensor:
    return x * torch.linspace(1, 2, x.shape[1])[:, None, None]


WRONG = {  # each was cut, and computed something else
    "overwritten": overwritten,
    "temporal-shift": shifted,
    "one-channel": lambda x: x * x[:, 3][:, None],
    "fourier": lambda x: torch.fft.fft2(x.transpose(1, 3)).real.transpose(1, 3),
    "by-position": graded,
    "response-norm": nn.LocalResponseNorm(3),
}


@pytest.mark.parametrize("between", WRONG.values(), ids=WRONG)
def test_what_the_graph_takes_for_element_wise_is_cut_exactly_or_left_whole(
    between: Callable[[Tensor], Tensor],
) -> None:
    model = Chain(between)
    groups = traced(model)
    assert {"first", "third"} <= {group.name for group in groups}
    assert worst(check_groups(model, IMAGE, groups, unit=1)) < 1e-5


STATISTICS = {
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "deviation": lambda x: x / (x.std(1, keepdim=True) + 1),
    "softmax": lambda x: x.softmax(1),
    "largest": lambda x: x - x.amax(1, keepdim=True),
    "response": lambda x: x * F.normalize(x.norm(dim=(2, 3), keepdim=True), dim=1),
    "rms": lambda x: x * x.square().mean(1, keepdim=True).add(1e-6).rsqrt(),
}


@pytest.mark.parametrize("between", STATISTICS.values(), ids=STATISTICS)
def test_statistics_over_channels_are_judged_without_the_removed_ones(between: Callable[[Tensor], Tensor]) -> None:
    model = Chain(between).eval()
    groups = trace(model, IMAGE[:1])
    assert [group.name for group in groups] == ["first", "second", "third"]
    assert refuted(model, IMAGE[:1], groups) == ""
    second = groups.groups[1]
    moved = [
        type(m)(m.layer, m.kind, m.side, m.width, m.positions, np.roll(m.units, 1)) if m.side == "in" else m
        for m in second.members
    ]
    wrong = Groups((groups.groups[0], Group(second.name, second.size, tuple(moved)), groups.groups[2]))
    assert refuted(model, IMAGE[:1], wrong)


class Mixes(nn.Module):
    """Tokens -> a layer along tokens, applied once for each channel -> classifier, as gMLP and mixers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.up, self.down = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 48), nn.Linear(48, 32)
        self.along, self.head = nn.Linear(16, 16), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.down(self.along(F.gelu(self.up(x)).transpose(1, 2)).transpose(1, 2))
        return self.head(x.mean(1))


class Linearly(nn.Module):
    """Linear attention: keys times values is a product of two groups' widths."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.q, self.k, self.v = (
            nn.Conv2d(3, 16, 4, 4),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
        )
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(x) for layer in (self.q, self.k, self.v))
        return self.head((x + self.out(q.softmax(-1) @ (k.softmax(-2).mT @ v))).mean(1))


@pytest.mark.parametrize("make", [Mixes, Linearly])
def test_costs_that_are_products_of_three_widths_are_those_counted(make: type[nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for speedup in (1.3, 2.0):
            pruned = raybench.prune(make().eval(), IMAGE[:1], speedup)
            assert pruned.macs == count_macs(pruned.model, IMAGE[:1]) < pruned.macs_base


class InTraining(Chain):
    """A head that only runs in training."""

    def __init__(self) -> None:
        super().__init__(torch.relu)
        self.aux = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.aux(self.second(self.first(x)))
        return super().forward(x)


def test_layers_that_run_in_training_only_are_named() -> None:
    with pytest.raises(NotSupported, match=r"InTraining: aux runs in training only.*aux_logits"):
        trace(InTraining().eval(), IMAGE[:1])


def test_a_network_for_one_size_of_batch_is_told_as_that() -> None:
    model = Chain(lambda x: x.reshape(2, *x.shape[1:])).eval()
    with pytest.raises(UserError, match=r"Chain runs on 2 images and not on one: .*names the batch size"):
        trace(model, torch.cat([IMAGE[:1], IMAGE[:1]]))


class OwnRms(nn.Module):
    """torch's RMS norm has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("between", [OwnRms(), nn.ConvTranspose2d(16, 16, 2, 2, groups=16)], ids=["rms", "transposed"])
def test_norms_without_bias_and_depthwise_transposed_are_judged(between: nn.Module) -> None:
    model = Chain(between)
    groups = traced(model)
    slim = copy.deepcopy(model)
    surgery.apply(slim, groups, {g.name: range(max(g.least, g.size // 2)) for g in groups})
    assert slim(IMAGE).shape == model(IMAGE).shape
    assert len(groups) == 3
