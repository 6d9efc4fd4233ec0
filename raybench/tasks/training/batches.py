"""The batches of a classifier's epoch, ready for the network: gathered, augmented, normalised and mixed on the device.

Images in memory stay on the device as bytes, and one gather takes a batch and its random crops from them. Nothing here
waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from raybench.datasets.data import Images, TensorImages, in_floats
from raybench.sweep.trial import TrainRecipe
from raybench.tasks.training.augment import mirrored, moved, reaches
from raybench.tasks.training.draws import Draws, draw_batch, moved_to
from raybench.tasks.training.mix import Mixed, mixed_images
from raybench.tasks.training.scale import Scale


def training_batches(
    images: Images,
    recipe: TrainRecipe,
    order: Sequence[Tensor],
    draw: torch.Generator,
    scale: Scale,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[Mixed]:
    """Yield one mixed batch for each index tensor of `order`, augmented by numbers from `draw`, normalised by `scale`.

    The numbers are those of drawing batch by batch; where it fits they are all drawn before the first batch.
    """
    device = scale.mean.device
    labels = images.labels.to(device)[torch.cat(tuple(order)).to(device)].split([len(one) for one in order])
    resizing = "resized-crop" in recipe.augment
    crops = [torch.rand(len(indices), 4, generator=draw) for indices in order] if resizing else None
    if isinstance(images, TensorImages):
        loaded = _from_memory(images, recipe, order, draw, device, crops)
    else:
        loaded = _from_files(images, recipe, order, draw, device, crops)
    for (pixels, draws), truth in zip(loaded, labels, strict=True):
        mixed = _mixed(_normalised(pixels, recipe, draws, scale, memory_format), truth, draws)
        if memory_format is torch.channels_last and not _keeps_format(draws):
            mixed = replace(mixed, images=mixed.images.contiguous(memory_format=memory_format))
        yield mixed


Loaded = Iterator[tuple[Tensor, Draws]]  # (pixels, moved already; what else was drawn for them)


def _from_memory(
    images: TensorImages, recipe: TrainRecipe, order: Sequence[Tensor], draw: torch.Generator, device: torch.device,
    crops: Sequence[Tensor] | None,
) -> Loaded:  # fmt: skip
    """Batches of images in memory; the first move is part of the gather."""
    moves, shape = reaches(recipe, images.shape[-1]), images.shape
    drawn = _all_draws(recipe, shape, order, draw, device)
    if crops is not None:
        for pixels, draws in zip(images.batches(order, device, crops), drawn, strict=True):
            yield _moved(pixels, moves, draws, 0), draws
        return
    for place, draws in zip(images.places(order, device), drawn, strict=True):
        corners = (draws.tensors["top0"], draws.tensors["left0"]) if moves else None
        pixels = images.raw(place, moves[0] if moves else 0, corners)
        yield _moved(pixels, moves, draws, 1), draws


def _all_draws(
    recipe: TrainRecipe, shape: tuple[int, ...], order: Sequence[Tensor], draw: torch.Generator, device: torch.device
) -> Iterator[Draws]:
    """The draws of every batch: made at once, but batch by batch where noise is among them, which takes memory."""
    drawn = (draw_batch(recipe, (len(indices), *shape), draw) for indices in order)
    if recipe.random_erasing:
        return (moved_to(device, [draws])[0] for draws in drawn)
    return iter(moved_to(device, list(drawn)))


def _from_files(
    images: Images, recipe: TrainRecipe, order: Sequence[Tensor], draw: torch.Generator, device: torch.device,
    crops: Sequence[Tensor] | None,
) -> Loaded:  # fmt: skip
    """Batches that are decoded while the network trains; their size is known when they come."""
    for pixels in images.batches(order, device, crops):
        draws = moved_to(device, [draw_batch(recipe, tuple(pixels.shape), draw)])[0]
        yield _moved(pixels, reaches(recipe, pixels.shape[-1]), draws, 0), draws


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
