"""The parts of a cost by hand: calls, terms, widths, products outside layers, the library's count, what stays whole."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.attention import attentions
from raybench.groups.calls import Calls, lengthwise
from raybench.groups.cost import Cost, Terms, _terms, _unknown_products, count_macs
from raybench.groups.library_count import library_counts
from raybench.groups.members import Layers
from raybench.groups.products import Products, _that_matter, counted_macs
from raybench.groups.records import Group, Groups, Member
from raybench.groups.whole import _macs, by_reason, share_of, warning_of
from raybench.groups.widths import Widths, sides_of
from tests.pruning_nets import IMAGE, small_vit


def member(
    layer: str, kind: str, side: str, width: int, positions: Any = None, units: Any = None, **more: Any
) -> Member:
    where = np.arange(width) if positions is None else np.array(positions)
    return Member(layer, kind, side, width, where, np.arange(len(where)) if units is None else np.array(units), **more)


def test_terms_are_a_sum_of_products() -> None:
    terms = Terms(np.array([2.0, 3.0]), np.array([0, 1]), np.array([1, 2]), np.array([2, 3]), np.array([1.0, 2.0]), 7)
    widths = np.array([[1, 2, 4, 10], [1, 1, 1, 1]])
    assert terms.total(widths).tolist() == [2 * 1 * 2 * 4 + 3 * 2 * 4 * 10 / 2 + 7, 2 + 1.5 + 7]
    assert Terms(terms.factor, terms.left, terms.right, terms.rows, terms.divisor).total(widths[1]) == 3.5


class Every(nn.Module):
    """Every kind of layer, some twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.depth, self.more = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 8, 1, groups=4)
        self.grouped, self.up = nn.Conv2d(8, 6, 1, groups=2), nn.ConvTranspose2d(6, 5, 2, 2, bias=False)
        self.twice, self.tokens, self.head = nn.Conv2d(5, 5, 1), nn.Linear(5, 7), nn.Linear(7, 2, bias=False)
        self.scale, self.plain = nn.Parameter(torch.rand(5, 1, 1)), nn.LayerNorm(7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.more(self.depth(self.norm(self.conv(x))))
        x = self.twice(self.twice(self.up(self.grouped(x)) * self.scale))
        return self.head(self.plain(self.tokens(x.flatten(2).transpose(1, 2))).mean(1))


EVERY = Groups(
    (
        Group("conv", 4, (
            member("conv", "conv", "out", 4), member("norm", "norm", "out", 4), member("depth", "depthwise", "out", 4),
            member("more", "depthwise", "out", 8, units=np.arange(8) // 2),
            member("grouped", "conv", "in", 8, units=np.arange(8) // 2),
        )),
        Group("up", 5, (
            member("up", "conv", "out", 5), member("scale", "parameter", "out", 5, axis=0),
            member("twice", "conv", "in", 5), member("twice", "conv", "out", 5), member("tokens", "linear", "in", 5),
        )),
        Group("tokens", 7, (
            member("tokens", "linear", "out", 7), member("plain", "norm", "out", 7), member("head", "linear", "in", 7),
        )),
    ),
)  # fmt: skip
PIXELS = {"conv": 16, "depth": 16, "more": 16, "grouped": 16, "up": 16, "twice": 128, "tokens": 64, "head": 1}


def test_calls_count_pixels_of_every_layer() -> None:
    calls = Calls.of(Every(), torch.rand(1, 3, 8, 8), {})
    assert (calls.pixels, calls.along) == (Counter(PIXELS), True)
    two = Calls.of(Every(), torch.rand(2, 3, 8, 8), {})
    assert two.pixels == Counter({name: 2 * count for name, count in PIXELS.items()})
    assert (two.macs, calls.by_module["Every.conv"]) == (2 * calls.macs, 16 * 27 * 4)
    assert not Calls.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2), {}).along
    model = small_vit()
    seen = Calls.of(model, IMAGE[:1], attentions(model)).pixels
    assert (seen["blocks.0.attn"], seen["blocks.0.attn.qkv"], seen["head"]) == (17**2, 17, 1)
    assert not any(module._forward_hooks for module in model.modules())


def test_every_layer_costs_what_it_multiplies_and_stores() -> None:
    model, image = Every(), torch.rand(2, 3, 8, 8)
    cost = Cost.measure(model, image, EVERY)
    assert cost.sizes.tolist() == [4, 5, 7]

    def macs(a: int, b: int, c: int) -> int:
        grouped = 16 * (a * 27 + a * 9 + 2 * a + 2 * a * 6 // 2 + 6 * b * 4)
        return grouped + 2 * 64 * b * b + 64 * b * c + 2 * c

    def params(a: int, b: int, c: int) -> int:
        first = a * 27 + a + 2 * a + a * 9 + 2 * a + 2 * a + 2 * a * 6 // 2 + 6 + 6 * b * 4
        return first + b + b * b + b + b * c + c + c + 2 * c

    for kept in ((4, 5, 7), (1, 1, 1), (3, 2, 6)):
        assert (cost.macs(np.array(kept)), cost.params(np.array(kept))) == (macs(*kept), params(*kept))
    assert (cost.macs_base, cost.params_base) == (macs(4, 5, 7), sum(p.numel() for p in model.parameters()))
    assert cost.products.groups.size == 0


@pytest.mark.parametrize("out", [2, 4, 8])
def test_grouped_convolutions_cost_less_with_fewer_inputs(out: int) -> None:
    """Those with one output for each group, too."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, out, 1, groups=2), nn.Flatten(), nn.Linear(4 * out, 3)
    ).eval()
    groups = Groups((Group("0", 4, (
        member("0", "conv", "out", 8, units=[*range(4)] * 2),
        member("1", "conv", "in", 8, units=[*range(4)] * 2, folds=2),
    ), least=2),))  # fmt: skip
    image = torch.rand(1, 3, 2, 2)
    cost, slim = Cost.measure(model, image, groups), copy.deepcopy(model)
    surgery.apply(slim, groups, {"0": [1, 3]})
    assert cost.macs(np.array([2])) == count_macs(slim, image) == 4 * (3 * 4 + 2 * out) + 12 * out
    assert cost.params(np.array([2])) == sum(p.numel() for p in slim.parameters())


def test_terms_name_factors_and_widths() -> None:
    model = Every()
    widths = Widths.of(model, EVERY)
    full = widths.at(np.array([4, 5, 7]))
    macs, params = _terms(model, Counter(PIXELS), widths, {}, {"tokens": widths.column("conv", "out")}, full)
    names = {column: key for key, column in widths.columns.items()}

    def table(terms: Terms) -> list[tuple]:
        columns = (terms.factor, terms.left, terms.right, terms.rows, terms.divisor)
        return [
            (f, *(" ".join(names[c]).strip() for c in (a, b, r)), d) for f, a, b, r, d in zip(*columns, strict=True)
        ]

    assert table(macs) == [
        (144, "conv out", "conv in", "one", 1), (144, "depth out", "one", "one", 1), (16, "more out", "one", "one", 1),
        (16, "grouped out", "grouped in", "one", 2), (64, "up out", "up in", "one", 1),
        (128, "twice out", "twice in", "one", 1), (16, "tokens out", "tokens in", "conv out", 1),
        (1, "head out", "head in", "one", 1),
    ]  # fmt: skip
    assert table(params) == [
        (9, "conv out", "conv in", "one", 1), (1, "conv out", "one", "one", 1), (2, "norm out", "one", "one", 1),
        (9, "depth out", "one", "one", 1), (1, "more out", "one", "one", 1), (1, "more out", "one", "one", 1),
        (1, "grouped out", "grouped in", "one", 2), (1, "grouped out", "one", "one", 1),
        (4, "up out", "up in", "one", 1), (1, "twice out", "twice in", "one", 1), (1, "twice out", "one", "one", 1),
        (1, "tokens out", "tokens in", "one", 1), (1, "tokens out", "one", "one", 1),
        (1, "head out", "head in", "one", 1), (1, "plain out", "one", "one", 1), (1, "scale out", "one", "one", 1),
    ]  # fmt: skip


class Mixer(nn.Module):
    """A linear layer along the tokens: it is applied once for each channel."""

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        self.stem, self.tokens, self.head, self.odd = nn.Conv2d(3, 6, 4, 4), nn.Linear(16, 16), nn.Linear(6, 2), odd

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2)
        if self.odd:
            x = torch.cat([self.tokens(x[:, 1:]), x[:, :1]], 1)
            return self.head(x.mean(2))
        return self.head(self.tokens(x).mean(2))


MIXED = Groups((Group("stem", 6, (member("stem", "conv", "out", 6), member("head", "linear", "in", 6))),))


def test_layers_along_another_axis_follow_the_width_on_which_they_depend() -> None:
    model = Mixer()
    widths, calls = Widths.of(model, MIXED), Calls.of(model, IMAGE[:1], {})
    assert lengthwise(model, IMAGE, MIXED, widths, {}, calls) == {"tokens": widths.column("stem", "out")}
    cost = Cost.measure(model, IMAGE, MIXED)
    assert [cost.macs(np.array([k])) for k in (6, 2)] == [16 * 48 * k + k * 256 + 2 * k for k in (6, 2)]
    plain = Calls(calls.pixels, calls.macs, calls.by_module, False)
    assert lengthwise(model, IMAGE, MIXED, widths, {}, plain) == {}
    odd = Mixer(odd=True)
    with pytest.raises(NotSupported) as caught:
        Cost.measure(odd, IMAGE, MIXED)
    assert str(caught.value) == (
        "can't predict the cost of Mixer: how often tokens is applied depends on more than one width"
    )


def test_widths_are_linear_in_units_and_in_products_of_pairs() -> None:
    model = nn.Sequential(nn.Linear(3, 12), nn.Linear(12, 5), nn.Conv2d(2, 3, 1), nn.ReLU())
    heads = Group("heads", 3, (member("0", "linear", "out", 12, range(6), np.arange(6) // 2),))
    dims = Group("dims", 2, (member("0", "linear", "out", 12, range(6), np.arange(6) % 2),))
    into = member("1", "linear", "in", 12, range(12), np.arange(12) // 6)
    rest = Group("rest", 2, (member("0", "linear", "out", 12, [8, 9, 10, 11], [0, 0, 1, 1]), into))
    widths = Widths.of(model, Groups((heads, dims, rest)))
    assert list(widths.columns) == [
        ("0", "out"), ("0", "in"), ("1", "out"), ("1", "in"), ("2", "out"), ("2", "in"), ("", "one"),
    ]  # fmt: skip
    assert widths.pairs.tolist() == [[0, 1]]
    assert widths.fixed.tolist() == [2, 3, 5, 0, 3, 2, 1]
    assert widths.per_unit[:, [0, 3]].tolist() == [[0, 0], [0, 0], [2, 6], [1, 0]]
    table = widths.at(np.array([[3, 2, 2], [1, 2, 1]]))
    assert table[:, 0].tolist() == [2 + 6 + 4, 2 + 2 + 2]
    assert table[:, -1].tolist() == [1, 1]
    assert (widths.column("0", "out"), widths.column("relu", "out")) == (0, 6)
    assert {name: m.side for name, m in widths.members.items()} == {"0": "out", "1": "in"}
    assert {key: [g for g, _ in owners] for key, owners in sides_of(Groups((heads, dims, rest))).items()} == {
        ("0", "out"): [0, 1, 2], ("1", "in"): [2],
    }  # fmt: skip


@pytest.mark.parametrize(
    "owners",
    [
        [(2, [0, 1, 2, 3, 4], [0, 0, 0, 1, 1])],  # three positions, and two
        [(2, [0, 1], [0, 0])],  # none for the second unit
        [(2, [0, 1], [0, 1]), (2, [0, 1], [0, 1]), (2, [0, 1], [0, 1])],  # three groups own it
        [(2, [0, 1, 2, 3], [0, 0, 1, 1]), (2, [0, 1, 2, 3], [0, 0, 1, 1])],  # two of its four pairs
    ],
)
def test_unequal_shares_have_no_width(owners) -> None:
    groups = Groups(tuple(
        Group(f"g{k}", size, (member("0", "linear", "out", 6, where, units),))
        for k, (size, where, units) in enumerate(owners)
    ))  # fmt: skip
    with pytest.raises(NotSupported, match=r"^0 \(out\): its channels are shared unevenly by the units of its groups$"):
        Widths.of(nn.Sequential(nn.Linear(3, 6)), groups)


SIZES, LEAST = np.array([12, 9, 16, 10, 8]), np.array([1, 3, 2, 1, 8])


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        (lambda a, b, c, d, e: 50, (50, [], [], [], {})),
        (lambda a, b, c, d, e: 7 + 3 * a + 2 * d, (7, [0, 3], [3, 2], [0, 0], {})),
        (lambda a, b, c, d, e: 7 + 5 * b * b + b, (7, [1], [1], [5], {})),
        (lambda a, b, c, d, e: 11 + 2 * b * c + c * c, (11, [1, 2], [0, 0], [0, 1], {(1, 2): 2})),
        (lambda a, b, c, d, e: 4 * a + a * d + e, (8, [0, 3], [4, 0], [0, 0], {(0, 3): 1})),
    ],
)
def test_products_outside_layers_have_these_numbers(excess: Callable[..., int], expected) -> None:
    found = Products.fitted(lambda kept: excess(*map(int, kept)), SIZES, LEAST)
    pairs = {tuple(pair): each for pair, each in zip(found.pairs.tolist(), found.each.tolist(), strict=True)}
    constant, groups, linear, square, products = expected
    assert (found.constant, found.groups.tolist(), pairs) == (constant, groups, products)
    np.testing.assert_allclose(found.linear, linear, atol=1e-9)
    np.testing.assert_allclose(found.square, square, atol=1e-9)


def test_products_of_groups_far_apart_are_not_looked_for() -> None:
    """Only three neighbours among the groups that count may multiply."""
    sizes, least = np.full(6, 9), np.ones(6, dtype=int)
    assert Products.fitted(lambda k: int(k.sum() + k[0] * k[3]), sizes, least).pairs.tolist() == [[0, 3]]
    assert Products.fitted(lambda k: int(k.sum() + k[0] * k[4]), sizes, least) is None
    wide = Products.fitted(lambda k: int(k[0] + k[4] + k[0] * k[4]), sizes, least)
    assert wide.pairs.tolist() == [[0, 4]]


def test_an_axis_of_one_is_no_matrix_product() -> None:
    """What is counted for a width of one is left out of the fit."""
    found = Products.fitted(lambda k: 0 if k[0] == 1 else 3 * int(k[0]) * 4, np.array([20]), np.array([1]))
    assert (found.constant, found.linear.tolist(), found.square.tolist()) == (0, [12], [0])
    assert found.total(np.array([[2], [20]])).tolist() == [24, 240]


def test_groups_that_matter_are_found_by_halves() -> None:
    counts: list[tuple[int, ...]] = []

    def excess(kept: np.ndarray) -> int:
        counts.append(tuple(kept.tolist()))
        return 100 + int(kept[9])

    sizes, least = np.full(12, 5), np.full(12, 2)
    assert _that_matter(excess, sizes, least, 105, list(range(12))) == [9, 10, 11]
    assert counts == [
        tuple([2] * 12), tuple([2] * 6 + [5] * 6), tuple([5] * 6 + [2] * 6), tuple([5] * 6 + [2] * 3 + [5] * 3),
        tuple([5] * 9 + [2] * 3),
    ]  # fmt: skip
    counts.clear()
    assert _that_matter(excess, sizes, least, 105, [6, 7, 8, 9]) == [6, 7, 8, 9]
    assert len(counts) == 1
    assert _that_matter(excess, sizes, least, 105, []) == []
    assert len(counts) == 1


def test_totals_of_products_are_whole_numbers() -> None:
    found = Products(0.4, np.array([1]), np.array([0.5]), np.array([2.0]), np.array([[0, 1]]), np.array([3.0]))
    assert found.total(np.array([[1, 2], [2, 3]])).tolist() == [15, 38]
    assert Products.fixed().total(np.array([1, 2])) == 0.0
    assert Products.fixed(3.0).total(np.array([[1, 2]])) == 3.0


def test_a_count_of_products_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).train()
    model[0].weight.requires_grad_(False)
    macs, by_module = counted_macs(model, torch.rand(5, 3))
    assert (macs, by_module) == (5 * 20, {"Global": 100, "Sequential": 100, "Sequential.0": 60, "Sequential.1": 40})
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert model.training


def test_modules_with_products_of_their_own() -> None:
    model = nn.Sequential()
    model.add_module("list", nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU())]))
    by_module = {
        "Global": 9, "Sequential": 9, "Sequential.list.0": 7, "Sequential.list.0.0": 4, "Sequential.list.0.1": 3,
    }  # fmt: skip
    assert _unknown_products(model, by_module) == ["list.0.1"]
    assert _unknown_products(model, by_module | {"Sequential.list.0": 8}) == ["list.0", "list.0.1"]
    assert _unknown_products(model, {"Sequential": 9, "Sequential.list.0": 4, "Sequential.list.0.0": 4}) == []


class Named(nn.Module):
    """Calls its layers by named arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.attn, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(input=self.conv(x))).flatten(2).transpose(1, 2)
        return self.head(input=self.attn(query=x, key=x, value=x, need_weights=False)[0].mean(1))


def test_the_librarys_count_takes_named_inputs() -> None:
    class Placed(Named):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
            return self.head(self.attn(x, x, x)[0].mean(1))

    named, placed = (library_counts(kind(), torch.rand(2, 3, 4, 4), Groups(()))[0] for kind in (Named, Placed))
    assert named == placed
    groups = Groups((Group("conv", 4, (
        member("0", "conv", "out", 4), member("1", "norm", "out", 4), member("4", "linear", "in", 4),
    )),))  # fmt: skip
    model = nn.Sequential(*(Named().conv, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    base, cut = library_counts(model, torch.rand(2, 3, 4, 4), groups)
    conv, norm, pool, head = 16 * 27, 2 * 16, 16, 2
    assert base == 4 * (conv + norm + pool + head) + 2
    assert cut([np.array([1, 2, 3])]) == 3 * (conv + norm + pool + head) + 2
    assert not any(module._forward_hooks for module in model.modules())


def noted(model: nn.Module, image: Tensor) -> Layers:
    layers = Layers.of(model)
    with torch.no_grad(), layers.note_shapes():
        model(image)
    return layers


def test_the_share_of_macs_that_can_go() -> None:
    model = Every()
    layers = noted(model, torch.rand(1, 3, 8, 8))
    whole = {name: 16 * n for name, n in (("conv", 108), ("depth", 36), ("more", 8), ("grouped", 24), ("up", 120))}
    whole |= {"twice": 2 * 64 * 25, "tokens": 64 * 35, "head": 14}
    for name, macs in whole.items():
        assert _macs(model.get_submodule(name), layers.shapes[name]) == macs
    kept = {name: whole[name] / 4 for name in ("conv", "depth", "more", "grouped")}
    kept |= {"up": whole["up"] / 5, "twice": whole["twice"] / 25, "tokens": whole["tokens"] / 35, "head": 2}
    assert share_of(layers, EVERY) == pytest.approx(1 - sum(kept.values()) / sum(whole.values()))
    least = Groups(tuple(Group(g.name, g.size, g.members, g.part, g.size) for g in EVERY))
    assert share_of(layers, least) == 0
    assert share_of(Layers.of(model), EVERY) == 0.0


def test_a_warning_names_three_reasons_and_five_layers() -> None:
    layers = Layers.of(nn.Linear(2, 2))
    groups = Groups((), share=0.456)
    assert warning_of("Net", layers, groups) == ""
    layers.whole = [(("a",), (), "one"), (tuple("abcdef"), tuple("ghijk"), "two")]
    rest = "up to 46 % of its MACs can still be removed"
    first = "Net: a keeps its width: one; a, b, c, d, e and more keeps its width, and with it g, h, i, j, k: two"
    assert warning_of("Net", layers, groups) == f"{first}; {rest}"
    layers.whole += [(("x",), ("y",), "three")]
    assert warning_of("Net", layers, groups) == f"{first}; x keeps its width, and with it y: three; {rest}"
    layers.whole += [(("z",), (), "four")] * 2
    assert warning_of("Net", layers, groups) == (
        f"{first}; x keeps its width, and with it y: three; and 2 more like these; {rest}"
    )


def test_layers_are_gathered_by_reasons_that_differ_in_numbers_alone() -> None:
    whole = {"a": "split 4", "b": "it makes the output", "c": "roll", "d": "split 12", "e": "fixed", "f": "split 4"}
    assert by_reason(whole) == [
        (("a",), ("d", "f"), "split 4"), (("c",), (), "roll"), (("e",), (), "fixed"),
    ]  # fmt: skip
