"""Checks that a token method keeps its contract: tokens are gone, in every image of a batch, at the exact cost."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from raybench.groups.cost import count_macs, params_of
from raybench.groups.hooks import hooked
from raybench.models.small import small_vit
from raybench.tokens.attached import reduced
from raybench.tokens.cost import TokenCost
from raybench.tokens.network import TokenViT
from raybench.tokens.reducer import TokenReducer
from raybench.tokens.shape import Counts
from raybench.tokens.target import allowed, find_counts

AMOUNTS = (0.0, 0.2, 0.5, 1.0)
SPEEDUPS = (1.3, 1.8)
NEAR = 1e-4  # relative to the largest output: float32 sums in another order


def check_token(reducer: TokenReducer) -> None:
    """Check counts, cost, shapes, batches and training, with a class token and with a mean over tokens.

    Raises:
        AssertionError: the method breaks its contract; the message says in what.
    """
    for class_token in (True, False):
        torch.manual_seed(0)
        vit = small_vit(4, 3, 16, embed_dim=16, depth=4, num_heads=2, class_token=class_token).eval()
        _check_network(reducer, vit, torch.randn(3, 3, 16, 16))


def _check_network(reducer: TokenReducer, vit: nn.Module, images: Tensor) -> None:
    cost = TokenCost.measure(vit, images[:1])
    _check_counts(reducer, cost)
    whole, _ = reduced(vit, images[:1], reducer, (0,) * cost.shape.depth)
    with torch.no_grad():
        assert _apart(vit(images), whole.eval()(images)) <= NEAR, "without a removed token the outputs differ"
    for target in SPEEDUPS:
        found = find_counts(reducer, cost, target)
        net, counts = reduced(copy.deepcopy(vit), images[:1], reducer, found.removed)
        net.eval()
        macs, params = cost.macs(reducer, found.removed), params_of(net.stages)
        counted = count_macs(net, images[:1])
        assert counted == macs, f"{target:g}x: torch counts {counted} MACs, the cost model predicted {macs}"
        _check_shapes(net, images, counts)
        _check_batch(net, images)
        if net.learns or params:
            _check_training(net, vit, images)


def _check_counts(reducer: TokenReducer, cost: TokenCost) -> None:
    """`removed` starts at none, never falls, and never asks more of a block than `most`."""
    before = 0
    for amount in AMOUNTS:
        removed = reducer.removed(cost.shape, amount)
        where = f"removed(shape, {amount:g})"
        assert len(removed) == cost.shape.depth, f"{where} has {len(removed)} counts for {cost.shape.depth} blocks"
        assert all(isinstance(gone, int) for gone in removed), f"{where} has counts that are no whole numbers"
        assert amount or not any(removed), f"{where} removes tokens; expected none at 0"
        assert sum(removed) >= before, f"{where} removes fewer tokens than a smaller amount"
        assert allowed(reducer, cost, removed), f"{where} = {removed} removes more than `most` allows"
        idle = [i for i, gone in enumerate(removed) if gone and i not in reducer.blocks(cost.shape)]
        assert not idle, f"{where} removes tokens in block {idle[:1]}, which `blocks` doesn't name"
        before = sum(removed)
    assert before, "removed(shape, 1) removes no token"


@torch.no_grad()
def _check_shapes(net: TokenViT, images: Tensor, counts: Counts) -> None:
    """Every attention and every MLP sees as many tokens as the counts say."""
    blocks: Any = net.vit
    seen: list[list[int]] = [[0, 0] for _ in counts]

    def watch(number: int, place: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[number][place] = inputs[0].shape[1]

        return hook

    parts = [(i, place, part) for i, one in enumerate(blocks.blocks) for place, part in enumerate((one.norm1, one.mlp))]
    with hooked(part.register_forward_pre_hook(watch(i, place)) for i, place, part in parts):
        outputs = net(images)
    assert seen == [list(one) for one in counts], f"attention and MLP of the blocks see {seen} tokens, not {counts}"
    assert bool(outputs.isfinite().all()), "outputs are NaN or infinite"


@torch.no_grad()
def _check_batch(net: TokenViT, images: Tensor) -> None:
    """Images in a batch give what they give alone, twice."""
    together = net(images)
    assert torch.equal(together, net(images)), "two passes of one batch give different outputs"
    alone = torch.cat([net(image[None]) for image in images])
    assert _apart(together, alone) <= NEAR, "an image gives other outputs in a batch than alone"


def _check_training(net: TokenViT, vit: nn.Module, images: Tensor) -> None:
    """One pass of training: gradients of the method's own weights are finite, and some of them not 0."""
    net = copy.deepcopy(net).train()
    outputs = net(images)
    loss = outputs.logsumexp(1).mean() + (net.extra_loss(outputs, images, vit) if net.learns else 0.0)
    loss.backward()
    gradients = [p.grad for p in net.stages.parameters()]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in gradients), "a gradient is missing or NaN"
    assert any(bool(grad.any()) for grad in gradients if grad is not None), "training changes no weight of the method"
    copy.deepcopy(net)  # what a pass leaves behind must not be part of a graph


def _apart(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())
