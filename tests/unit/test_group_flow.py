"""Channels that don't arrive where the graph says are refused by name; whatever looks at all channels is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raybench.groups.flow import Misplaced, check_flow
from raybench.groups.members import Layers
from raybench.groups.trace import trace
from tests.pruning_nets import IMAGE, Chain, shuffled, small_resnet


def exchanged(x: Tensor) -> Tensor:
    return x[:, [1, 0, *range(2, 16)]]


def neighbours_summed(x: Tensor) -> Tensor:
    return x + x.roll(1, dims=1)


@pytest.mark.parametrize(
    "between", [shuffled, lambda x: x.flip(1), neighbours_summed, exchanged], ids=["shuffle", "flip", "sum", "exchange"]
)
def test_reordered_and_mixed_channels_are_found_by_model_layer_and_group(between: Callable[[Tensor], Tensor]) -> None:
    """By the marked channels, for groups that take the operation for an element-wise one."""
    model = Chain(between).eval()
    groups, layers = trace(Chain(torch.relu).eval(), IMAGE[:1]), Layers.of(model)
    with torch.no_grad(), layers.note_shapes():
        model(IMAGE[:1])
    with pytest.raises(Misplaced, match=r"can't group Chain: third reads at its channel \d+ .* group second") as caught:
        check_flow(model, IMAGE[:1], groups, layers.shapes)
    assert (caught.value.layer, caught.value.groups) == ("third", ("second",))


def test_what_is_reordered_can_be_protected_and_the_rest_pruned() -> None:
    groups = trace(Chain(shuffled).eval(), IMAGE[:1], protect=["second"])
    assert [g.name for g in groups] == ["first", "third"]


def root_mean_square(x: Tensor) -> Tensor:
    return x * x.square().mean(1, keepdim=True).add(1e-6).rsqrt()


def layer_norm(x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


def squeezed(x: Tensor) -> Tensor:
    return x * x.mean((1, 2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize("between", [root_mean_square, layer_norm, squeezed, lambda x: x.softmax(1), nn.GELU()])
def test_norms_and_weights_over_all_channels_are_no_reordering(between: Callable[[Tensor], Tensor]) -> None:
    assert [g.name for g in trace(Chain(between).eval(), IMAGE[:1])] == ["first", "second", "third"]


def test_a_net_that_minds_what_it_computes_is_told_to_be_unchecked_and_left_as_it_was() -> None:
    def picky(x: Tensor) -> Tensor:
        if not torch.isclose(x.mean(), seen.setdefault("mean", x.mean().detach())):
            raise ValueError("another mean")
        return x

    seen: dict[str, Tensor] = {}
    model = Chain(picky).eval()
    with pytest.warns(UserWarning, match=r"Chain: where its channels go could not be checked .*another mean"):
        groups = trace(model, IMAGE[:1])
    assert len(groups) == 3
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_layers_own_forwards_come_back() -> None:
    model = small_resnet()
    model.fc.forward = forward = lambda x: nn.functional.linear(x, model.fc.weight, model.fc.bias)
    trace(model, IMAGE[:1])
    assert model.fc.__dict__["forward"] is forward
    assert not any("forward" in module.__dict__ for module in model.modules() if module is not model.fc)
