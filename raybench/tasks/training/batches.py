"""The batches of a classifier's epoch, ready for the network: gathered, augmented, normalised and mixed on the device.

Images in memory stay on the device as bytes, and one gather takes a batch and its random crops from them. Nothing here
waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raybench.datasets.data import Images, TensorImages, in_floats
from raybench.datasets.transfer import sent
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.augment import mirrored, moved, reaches
from raybench.tasks.training.draws import Draws, draw_batch, moved_to
from raybench.tasks.training.mix import Mixed, mixed_images
from raybench.tasks.training.scale import Scale
from raybench.tasks.training.team import ALONE, Team


def training_batches(
    images: Images,
    recipe: TrainRecipe,
    order: Sequence[Tensor],
    draw: torch.Generator,
    scale: Scale,
    memory_format: torch.memory_format = torch.contiguous_format,
    team: Team = ALONE,
) -> Iterator[Mixed]:
    """Yield one mixed batch for each index tensor of `order`, augmented by numbers from `draw`, normalised by `scale`.

    The numbers are those of drawing batch by batch; where it fits they are all drawn before the first batch. Every
    process of a `team` draws for whole batches and loads its share of them. Where images are mixed it loads all, since
    an image may be mixed with one of another process.
    """
    device = scale.mean.device
    mixes = recipe.mixup or recipe.cutmix
    before, after = (ALONE, team) if mixes else (team, ALONE)
    own = [before.share(indices) for indices in order]
    labels = sent(images.labels[torch.cat(own)], device).split([len(one) for one in own])
    resizing = "resized-crop" in recipe.augment
    crops = [before.share(torch.rand(len(indices), 4, generator=draw)) for indices in order] if resizing else None
    loading = _Loading(recipe, order, own, draw, device, crops, before)
    loaded = _from_memory(images, loading) if isinstance(images, TensorImages) else _from_files(images, loading)
    for (pixels, draws), truth, indices in zip(loaded, labels, order, strict=True):
        mixed = _mixed(_normalised(pixels, recipe, draws, scale, memory_format), truth, draws)
        if memory_format is torch.channels_last and not _keeps_format(draws):
            mixed = replace(mixed, images=mixed.images.contiguous(memory_format=memory_format))
        yield _share(mixed, after, len(indices))


def _share(mixed: Mixed, team: Team, count: int) -> Mixed:
    """This process's part of a batch of `count` images."""
    images, labels, others = map(team.share, (mixed.images, mixed.labels, mixed.others))
    return Mixed(images, labels, others, mixed.share, len(labels) / count)


Loaded = Iterator[tuple[Tensor, Draws]]  # (pixels, moved already; what else was drawn for them)


@dataclass(frozen=True)
class _Loading:
    """What is loaded in an epoch: the indices of every batch, and this process's own ones and crops among them."""

    recipe: TrainRecipe
    order: Sequence[Tensor]
    own: Sequence[Tensor]
    draw: torch.Generator
    device: torch.device
    crops: Sequence[Tensor] | None
    team: Team


def _from_memory(images: TensorImages, what: _Loading) -> Loaded:
    """Batches of images in memory; the first move is part of the gather."""
    moves, device = reaches(what.recipe, images.shape[-1]), what.device
    drawn = _all_draws(images.shape, what)
    if what.crops is not None:
        for pixels, draws in zip(images.batches(what.own, device, what.crops), drawn, strict=True):
            yield _moved(pixels, moves, draws, 0), draws
        return
    for place, draws in zip(images.places(what.own, device), drawn, strict=True):
        corners = (draws.tensors["top0"], draws.tensors["left0"]) if moves else None
        pixels = images.raw(place, moves[0] if moves else 0, corners)
        yield _moved(pixels, moves, draws, 1), draws


def _all_draws(shape: tuple[int, ...], what: _Loading) -> Iterator[Draws]:
    """The draws of every batch: made at once, but batch by batch where noise is among them, which takes memory."""
    share = what.team.share
    drawn = (draw_batch(what.recipe, (len(indices), *shape), what.draw).of(share) for indices in what.order)
    if what.recipe.random_erasing:
        return (moved_to(what.device, [draws])[0] for draws in drawn)
    return iter(moved_to(what.device, list(drawn)))


def _from_files(images: Images, what: _Loading) -> Loaded:
    """Batches that are decoded while the network trains; their size is known when they come."""
    for pixels, indices in zip(images.batches(what.own, what.device, what.crops), what.order, strict=True):
        drawn = draw_batch(what.recipe, (len(indices), *pixels.shape[1:]), what.draw).of(what.team.share)
        draws = moved_to(what.device, [drawn])[0]
        yield _moved(pixels, reaches(what.recipe, pixels.shape[-1]), draws, 0), draws


def _moved(pixels: Tensor, moves: Sequence[int], draws: Draws, done: int) -> Tensor:
    """The pixels after all moves but the first `done`."""
    for number, most in enumerate(moves[done:], done):
        pixels = moved(pixels, most, draws.tensors[f"top{number}"], draws.tensors[f"left{number}"])
    return pixels


def _normalised(
    pixels: Tensor, recipe: TrainRecipe, draws: Draws, scale: Scale, memory_format: torch.memory_format
) -> Tensor:
    """Moved pixels, bytes or floats, mirrored, changed by RandAugment, normalised and erased."""
    if "mirrored" in draws.tensors:
        pixels = mirrored(pixels, draws.tensors["mirrored"])
    if memory_format is torch.channels_last and _keeps_format(draws):  # of bytes, a quarter of what floats are
        pixels = pixels.contiguous(memory_format=memory_format)
    pixels = in_floats(pixels)
    if draws.operations:
        from raybench.tasks.training.randaugment import with_operations

        pixels = with_operations(pixels, recipe.randaugment, draws.operations)
    pixels = scale(pixels)  # a new tensor: a dataset may give out its own memory
    if "erased" in draws.tensors:
        pixels = torch.where(draws.tensors["erased"], draws.tensors["noise"], pixels)
    return pixels


def _keeps_format(draws: Draws) -> bool:
    """Whether what is done to a batch after mirroring leaves its memory format."""
    return not (draws.operations or {"erased", "order"} & draws.tensors.keys())


def _mixed(images: Tensor, labels: Tensor, draws: Draws) -> Mixed:
    order = draws.tensors.get("order")
    if order is None:
        return Mixed(images, labels, labels)
    return Mixed(
        mixed_images(images, order, draws.share, draws.tensors.get("kept")), labels, labels[order], draws.share
    )
