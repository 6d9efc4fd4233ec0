"""Blocks of a network that may go whole: modules around which a shortcut goes, found by running them.

A block is a module that returns one tensor of the shape of its first input: that input plus something. So do the
blocks of ResNet (with the ReLU after the sum), of a pre-norm transformer (both residual halves), ConvNeXt, MobileNet
and YOLO. Each module of a copy, whose weights have random signs, is run alone on what it reads in the network, on an
image of noise. Every sum of the input with something computed from it is replaced by the input. A module that then
returns its input, to the bit, is removable: in its place `nn.Identity` computes what the network does with the
residual branches at zero. No class is known by name.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from raybench.errors import UserError, nearest
from raybench.groups.attention import plainly
from raybench.groups.cost import params_of
from raybench.groups.first_run import raise_if_out_of_memory
from raybench.groups.members import Layers
from raybench.groups.restored import buffers_restored
from raybench.groups.shortcuts import shortcuts

MOST_SUMS = 6  # around one block; a module with more is a trunk: many blocks whose sums stand in one forward
MOST_INSIDE = 0.5  # share of a block's parameters in several smaller blocks of one branch: then those are the blocks

PLAIN = (str, int, float, list, tuple)


class Removed(nn.Identity):
    """Stands in place of a removed block: returns its first input, whatever else the block was called with."""

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        """`input`, unchanged."""
        return input


def remove(model: nn.Module, names: Iterable[str]) -> None:
    """Replace the modules `names` of `model` in place by ones that return their input.

    Raises:
        UserError: the network has no module of that name.
    """
    for name in names:
        block = dict(model.named_modules()).get(name) if name else None
        if block is None:
            near = nearest(name, (one for one, _ in model.named_modules() if one))
            raise UserError(f"{type(model).__name__} has no block {name!r} that could be removed.{near}".strip("."))
        owner, _, attribute = name.rpartition(".")
        stand_in = Removed()
        _keep_marks(block, stand_in)
        setattr(model.get_submodule(owner), attribute, stand_in.train(block.training))


def _keep_marks(block: nn.Module, stand_in: nn.Module) -> None:
    """Copy plain attributes that a network's forward may read of its blocks, such as where their input comes from."""
    for name, value in vars(block).items():
        if not name.startswith("_") and name not in vars(stand_in) and isinstance(value, PLAIN):
            setattr(stand_in, name, value)


def removed_blocks(model: nn.Module) -> tuple[str, ...]:
    """Names of the blocks that were removed from `model`, in its order."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, Removed))


def lacks_blocks(model: nn.Module) -> bool:
    """Whether blocks were removed from `model`."""
    return bool(removed_blocks(model))


def still_there(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Those of `patterns`, names or globs of modules, that name one of `model`, from which blocks were removed."""
    names = [name for name, _ in model.named_modules() if name]
    return tuple(one for one in patterns if any(name == one or fnmatchcase(name, one) for name in names))


def removable_blocks(
    model: nn.Module, example: Tensor, *, protect: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names of the modules of `model` that may be removed whole, in the order of `named_modules`; none holds another.

    They follow from the network's operations, whatever its weights are.

    Args:
        model: the network, which isn't changed.
        example: one image as the model takes it, (1, channels, height, width); noise is drawn in its shape.
        protect: modules that stay, by qualified name or glob: no block that holds one of them is removable.
        only: modules outside which nothing goes; empty: anywhere.

    Raises:
        UserError: an unknown module.
    """
    layers = Layers.of(model)
    kept = layers.resolve(protect, "keep")
    inside = layers.resolve(only, "only") if only else None
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(example[:1].shape, generator=draws).to(example)
    model = copy.deepcopy(model)
    _flip(model, draws)
    with plainly(model), torch.no_grad(), buffers_restored(model):
        carried = shortcuts(model, noise)
        found = [name for name, sums in carried.items() if 0 < len(_own(name, sums, carried)) <= MOST_SUMS]
        blocks = [name for name in _outermost(model, found) if _may_go(model, name, kept, inside)]
        return tuple(_working(model, noise, blocks))


def _flip(model: nn.Module, draws: torch.Generator) -> None:
    """Give the weights of `model` random signs: what is never negative now is so because of a ReLU or the like."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                signs = torch.randint(0, 2, parameter.shape, generator=draws) * 2 - 1
                parameter.mul_(signs.to(parameter))


def _may_go(model: nn.Module, block: str, kept: set[str], inside: set[str] | None) -> bool:
    """Whether what the user keeps lets `block` go."""
    own = [f"{block}.{name}" if name else block for name, _ in model.get_submodule(block).named_modules()]
    if kept.intersection(own):
        return False
    return inside is None or all(name in inside for name in own if _has_weights(model.get_submodule(name)))


def _has_weights(module: nn.Module) -> bool:
    """Whether the module itself holds weights."""
    return next(module.parameters(recurse=False), None) is not None


def _own(name: str, places: Sequence[str], found: Iterable[str]) -> list[str]:
    """The sums of `name` that no smaller module with a shortcut makes; none for a mere chain of such modules."""
    smaller = [other for other in found if other.startswith(f"{name}.")]
    return [place for place in places if not any(_within(place, other) for other in smaller)]


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _outermost(model: nn.Module, found: Iterable[str]) -> list[str]:
    """Blocks of which none holds another: the outer one, unless several inner ones hold most of its parameters."""
    blocks: list[str] = []
    left = set(found)
    size = {name: params_of(model.get_submodule(name)) for name in left}
    for name in (one for one, _ in model.named_modules() if one in left):
        if any(_within(name, block) for block in blocks):
            continue
        inner = [one for one in left if one.startswith(f"{name}.")]
        inner = [one for one in inner if not any(other != one and _within(one, other) for other in inner)]
        if len(inner) > 1 and sum(size[one] for one in inner) > MOST_INSIDE * size[name]:
            continue
        blocks.append(name)
    return blocks


def _working(model: nn.Module, image: Tensor, blocks: Sequence[str]) -> list[str]:
    """Those of `blocks` without which the network still runs: all at once, or one by one where that fails."""
    if not blocks or _runs_without(model, image, blocks):
        return list(blocks)
    return [block for block in blocks if _runs_without(model, image, [block])]


def _runs_without(model: nn.Module, image: Tensor, blocks: Sequence[str]) -> bool:
    """Whether the network runs with `blocks` removed, and returns as many tensors of the same shapes."""
    shapes = _shapes(model(image))
    with _without(model, blocks):
        try:
            return _shapes(model(image)) == shapes
        except Exception as error:  # a network may read an attribute of its blocks, or fail in any other way
            raise_if_out_of_memory(error)
            return False


@contextmanager
def _without(model: nn.Module, blocks: Sequence[str]) -> Iterator[None]:
    """Inside, the network has its `blocks` removed."""
    whole = {name: model.get_submodule(name) for name in blocks}
    remove(model, blocks)
    try:
        yield
    finally:
        for name, module in whole.items():
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, module)


def _shapes(output: Any) -> Counter[tuple[int, ...]]:
    return Counter(tuple(one.shape) for one in tree_leaves(output) if isinstance(one, Tensor))
