"""Random numbers of training batches: drawn on the CPU batch after batch, and moved to the device all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raybench.datasets.transfer import sent
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.augment import corner_draws, erasing_draws, mirror_draws, reaches
from raybench.tasks.training.mix import mix_draws


@dataclass(frozen=True)
class Draws:
    """What was drawn for one batch.

    Attributes:
        tensors: by name, each with the batch first, on the training device: `top0`, `left0` (crop of the first move),
            `top1`, `left1`, `mirrored`, `erased`, `noise`, `order` (what an image is mixed with), `kept` (by cutmix).
        operations: of RandAugment, on the CPU: they decide which kernels run.
        share: of an image in its mixture; 1 where nothing is mixed.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    operations: tuple[tuple[Tensor, Tensor], ...] = ()
    share: float = 1.0

    def of(self, share: Callable[[Tensor], Tensor]) -> Draws:
        """What was drawn for a part of the images, which `share` takes of a tensor; not for batches that are mixed."""
        operations = tuple((share(which), share(how)) for which, how in self.operations)
        return replace(self, tensors={name: share(one) for name, one in self.tensors.items()}, operations=operations)


def draw_batch(recipe: TrainRecipe, shape: tuple[int, ...], draw: torch.Generator) -> Draws:
    """Draw for one batch of `shape` (b, c, h, w); the order of the draws is part of the numbers."""
    count, width = shape[0], shape[-1]
    tensors: dict[str, Tensor] = {}
    for number, most in enumerate(reaches(recipe, width)):
        tensors[f"top{number}"], tensors[f"left{number}"] = corner_draws(count, most, draw)
    if "flip" in recipe.augment:
        tensors["mirrored"] = mirror_draws(count, draw)
    operations: tuple[tuple[Tensor, Tensor], ...] = ()
    if recipe.randaugment:
        from raybench.tasks.training.randaugment import operation_draws

        operations = operation_draws(count, draw)
    if (erasing := erasing_draws(shape, recipe, draw)) is not None:
        tensors["erased"], tensors["noise"] = erasing
    mixing = mix_draws(shape, recipe, draw)
    if mixing is None:
        return Draws(tensors, operations)
    tensors["order"] = mixing.order
    if mixing.kept is not None:
        tensors["kept"] = mixing.kept
    return Draws(tensors, operations, mixing.share)


def moved_to(device: torch.device, draws: Sequence[Draws]) -> list[Draws]:
    """The same draws with their tensors on `device`, one copy for each name; nothing happens for the CPU."""
    if device.type == "cpu":
        return list(draws)
    found: list[dict[str, Tensor]] = [{} for _ in draws]
    for name in dict.fromkeys(name for one in draws for name in one.tensors):
        holders = [number for number, one in enumerate(draws) if name in one.tensors]
        parts = [draws[number].tensors[name] for number in holders]
        together = sent(torch.cat(parts), device)
        for number, part in zip(holders, together.split([len(part) for part in parts]), strict=True):
            found[number][name] = part
    return [replace(one, tensors=tensors) for one, tensors in zip(draws, found, strict=True)]
