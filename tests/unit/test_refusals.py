"""Networks that can't be counted without numbers, can't run with fewer channels, or that a criterion can't score."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raybench import registry
from raybench.errors import NotSupported
from raybench.groups.trace import trace
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select, select_ratio

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
L2 = registry.importance.load("magnitude-l2")()


class Plain(nn.Module):
    """Two convolutions and a classifier, with something of its subclass in between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3)
        self.head = nn.Linear(12, 5)

    def between(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.between(torch.relu(self.first(x)))).mean((2, 3)))


class MakesTensors(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.ones(1, 1, 1, 1)


class LooksAtValues(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class NamesItsWidth(Plain):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 16, 6, 6)


@pytest.mark.parametrize("make", [MakesTensors, LooksAtValues])
def test_networks_that_need_numbers_are_counted_with_numbers(make) -> None:
    expected, found = (
        select(Scoring(L2, net), IMAGE, trace(net, IMAGE), [2.0])[2.0] for net in (Plain().eval(), make().eval())
    )
    assert (found.kept, found.macs, found.macs_tp) == (expected.kept, expected.macs, expected.macs_tp)


def test_a_width_that_a_network_names_stays_and_the_rest_is_pruned() -> None:
    net = NamesItsWidth().eval()
    with pytest.warns(UserWarning, match=r"NamesItsWidth: first keeps its width: .*up to \d+ % of its MACs"):
        groups = trace(net, IMAGE)
    assert [group.name for group in groups] == ["second"]
    assert select(Scoring(L2, net), IMAGE, groups, [1.2])[1.2].speedup == pytest.approx(1.2, rel=0.05)


def test_a_criterion_that_scores_nothing_says_what_it_needs() -> None:
    net = Plain().eval()
    with pytest.raises(NotSupported, match="BNScale scores no channel of Plain: it needs batch-norm layers"):
        select_ratio(Scoring(registry.importance.load("bn-scale")(), net), IMAGE, trace(net, IMAGE), 0.5)
