"""A token method attached to a network: the reduced network, ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raybench import registry
from raybench.errors import NotSupported
from raybench.tokens.network import TokenViT
from raybench.tokens.plain import shape_of
from raybench.tokens.reducer import TokenReducer
from raybench.tokens.shape import Counts


def reducer_named(name: str, params: Mapping[str, Any]) -> TokenReducer:
    """A registered token method with its parameters.

    Example:
        >>> reducer_named("tome", {"train": "none"}).place
        'mlp'
    """
    reducer: TokenReducer = registry.token.load(name)(**params)
    return reducer


def reduced(
    model: nn.Module, example: Tensor, reducer: TokenReducer, removed: Sequence[int], seed: int = 0
) -> tuple[TokenViT, Counts]:
    """A network that removes tokens.

    Args:
        model: a plain vision transformer; it becomes part of the result.
        example: one image as the network takes it, on its device.
        reducer: the method.
        removed: how many tokens each block removes.
        seed: of the method's own weights.

    Returns:
        The network, and the tokens that attention and MLP of each block see.

    Raises:
        NotSupported: the network isn't plain, or the method can't remove so many tokens from it.
    """
    shape, counts = shape_of(model, example), tuple(removed)
    wrong = len(counts) != shape.depth or any(
        not 0 <= gone <= max(0, reducer.most(shape, patches))
        for gone, patches in zip(counts, shape.before(counts), strict=False)
    )
    if wrong:
        raise NotSupported(
            f"{type(reducer).__name__} can't remove {list(counts)} tokens in the {shape.depth} blocks of "
            f"{type(model).__name__}, which has {shape.patches} for an image"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = reducer.attach(shape, counts)
    return TokenViT(model, stages.to(example.device)).train(model.training), shape.counts(counts, reducer.place)
