"""Predicted costs against torch's counter, before and after cuts, on every family of layer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported, UserError
from raybench.groups import surgery
from raybench.groups.attention import plainly
from raybench.groups.cost import Cost, count_macs
from raybench.groups.records import Groups
from raybench.groups.trace import DEFAULT_PARTS, trace
from raybench.models.build import build_model
from tests.pruning_nets import (
    IMAGE,
    Branches,
    FewInEach,
    Grouped,
    TorchAttention,
    normed_vit,
    small_resnet,
    small_swin,
    small_vit,
)

EVERY_PART = ("embed", "heads", "head-dim", "mlp")
NETS = {
    "branches": (Branches, ()),
    "grouped": (Grouped, ()),
    "resnet": (small_resnet, ()),
    "vit": (small_vit, EVERY_PART),
    "swin": (small_swin, EVERY_PART),
    "torch-attention": (TorchAttention, ()),
    "one-in-each": (lambda: FewInEach(6), ()),
    "normed-vit": (normed_vit, EVERY_PART),
}


def random_kept(groups, seed: int) -> dict[str, tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    counts = {g.name: int(rng.integers(g.least, g.size + 1)) for g in groups}
    return {g.name: tuple(sorted(rng.permutation(g.size)[: counts[g.name]].tolist())) for g in groups}


@pytest.mark.filterwarnings("ignore:.*keeps its width")
@pytest.mark.parametrize("name", NETS)
def test_counted_equals_predicted_before_and_after_cuts(name: str) -> None:
    make, prune = NETS[name]
    model = make().eval()
    groups = trace(model, IMAGE[:1], prune=prune)
    cost = Cost.measure(model, IMAGE, groups)
    assert cost.macs_base == count_macs(model, IMAGE)
    assert cost.params_base == sum(p.numel() for p in model.parameters())
    for seed in range(4):
        kept, slim = random_kept(groups, seed), copy.deepcopy(model)
        counts = np.array([len(kept[g.name]) for g in groups])
        surgery.apply(slim, groups, kept)
        assert int(cost.macs(counts)) == count_macs(slim, IMAGE)
        assert int(cost.params(counts)) == sum(p.numel() for p in slim.parameters())
        slim.train()(IMAGE).sum().backward()


def test_many_shapes_are_counted_at_once() -> None:
    model = small_resnet()
    groups = trace(model, IMAGE[:1])
    cost = Cost.measure(model, IMAGE, groups)
    rows = np.stack([cost.sizes, cost.sizes // 2])
    assert cost.macs(rows).tolist() == [cost.macs_base, float(cost.macs(rows[1]))]


class Inner(nn.Module):
    """A linear layer, the product that `odd` makes of its channels, and a classifier."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.first, self.odd, self.head = nn.Linear(3, 8), odd, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.odd(self.first(x.flatten(2).transpose(1, 2))).mean(1))


class Odd(nn.Module):
    """A product of channels with channels, some times: `times` sees the number of channels."""

    def __init__(self, times: Callable[[int], int]) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times(x.shape[-1])):
            x = x @ (x.transpose(1, 2) @ x)
        return x


def test_products_of_channels_with_channels_are_predicted() -> None:
    model = Inner(Odd(lambda channels: 1)).eval()
    groups = trace(model, IMAGE[:1])
    cost = Cost.measure(model, IMAGE, groups)
    # 256 tokens: a linear layer 3 -> c, two products of c x c, one classifier of c -> 2
    hand = [256 * 3 * c + 2 * 256 * c * c + 2 * c for c in range(1, 9)]
    assert cost.macs(np.arange(1, 9)[:, None]).tolist() == hand
    surgery.apply(model, groups, {"first": range(5)})
    assert count_macs(model, IMAGE) == hand[4]


def test_products_of_another_form_are_refused_by_module() -> None:
    model = Inner(Odd(lambda channels: channels % 3 + 1)).eval()
    groups = trace(model, IMAGE[:1])
    with pytest.raises(NotSupported, match=r"can't predict the cost of Inner: .* look at odd"):
        Cost.measure(model, IMAGE, groups)


def test_fused_and_unfused_attention_agree_after_the_cut() -> None:
    """The library leaves `scale` as it was, which only its unfused path reads."""
    model = small_vit()
    groups = trace(model, IMAGE[:1], prune=EVERY_PART)
    surgery.apply(model, groups, random_kept(groups, 1))
    attention = model.blocks[0].attn
    attention.fused_attn = True
    with torch.no_grad():
        fused = model(IMAGE)
        with plainly(model):
            plain = model(IMAGE)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)
    assert attention.scale == attention.head_dim**-0.5
    assert attention.attn_dim == attention.num_heads * attention.head_dim == attention.proj.in_features


def test_narrowed_groups_describe_the_cut_network() -> None:
    model = small_vit()
    groups = trace(model, IMAGE[:1])
    kept = random_kept(groups, 2)
    narrow = surgery.narrowed(groups, kept)
    surgery.apply(model, groups, kept)
    again = trace(model, IMAGE[:1])
    assert [(g.name, g.size) for g in narrow] == [(g.name, g.size) for g in again]
    for left, right in zip(narrow, again, strict=True):
        for a, b in zip(left.members, right.members, strict=True):
            assert (a.layer, a.side, a.width) == (b.layer, b.side, b.width)
            assert a.positions.tolist() == b.positions.tolist()
            assert a.units.tolist() == b.units.tolist()


def test_kept_units_that_do_not_exist_are_refused() -> None:
    model = Branches().eval()
    groups = trace(model, IMAGE[:1])
    with pytest.raises(UserError, match="stem has units 0 to 3"):
        surgery.apply(model, groups, {"stem": (4,)})
    with pytest.raises(UserError, match=r"unknown group 'stam'.*'stem'"):
        surgery.apply(model, groups, {"stam": (0,)})


@pytest.mark.parametrize("part", EVERY_PART)
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_each_part_of_attention_models_can_be_cut_alone(name: str, part: str) -> None:
    _cut_and_count(NETS[name][0](), IMAGE[:1], (part,))


@pytest.mark.slow
@pytest.mark.parametrize("prune", [(), *((part,) for part in EVERY_PART), EVERY_PART], ids=lambda p: "+".join(p))
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_parts_of_timm_networks_alone_and_together(name: str, prune: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    groups = _cut_and_count(timm.create_model(name).eval(), torch.zeros(1, 3, 224, 224), prune)
    assert {g.part for g in groups} == set(prune or DEFAULT_PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, e in registry.model.entries().items() if e.facts["task"] == "detection"])
def test_every_detector_costs_what_is_predicted(name: str) -> None:
    """Classifiers: tests/conformance/test_models.py."""
    data = DataFacts("any", "detection", 5, 3, 64, (0.0,) * 3, (1.0,) * 3, "")
    _cut_and_count(build_model(name, data).eval(), torch.zeros(1, 3, 64, 64), ())


def _cut_and_count(model: nn.Module, image: Tensor, prune: tuple[str, ...]) -> Groups:
    """Cut `model` at random; torch must count what is predicted before and after. Its groups."""
    groups = trace(model, image, prune=prune)
    cost, kept = Cost.measure(model, image, groups), random_kept(groups, 0)
    assert cost.macs_base == count_macs(model, image)
    surgery.apply(model, groups, kept)
    assert int(cost.macs(np.array([len(kept[g.name]) for g in groups]))) == count_macs(model, image) < cost.macs_base
    return groups
