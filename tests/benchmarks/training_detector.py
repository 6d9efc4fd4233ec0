"""One epoch of a detector's training, ours and a plain loop, for bench_training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

import raybench
from raybench import registry
from raybench.datasets.boxes import BoxData
from raybench.datasets.digits_detection import digits_detection
from raybench.datasets.facts import Split
from raybench.datasets.open import facts_of
from raybench.groups.cost import count_macs
from raybench.models.build import build_model
from raybench.models.ultralytics import normalised
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.detection import Detection
from raybench.tasks.detection_images import TrainingImages, workers_for
from raybench.tasks.detection_loss import criterion_of
from raybench.tasks.detection_training import augmentation, freeze_integral
from tests.benchmarks.training_epochs import Nothing

SIDE, BATCH = 320, 16
RECIPE = TrainRecipe(epochs=1, batch_size=BATCH, lr=0.001, schedule="constant", augment=("hsv", "scale", "flip"))


class TrainingAlone(Detection):
    """A task whose epochs are passes over the training images and nothing else."""

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Figures of nothing."""
        return {"mAP50-95": 0.0, "mAP50": 0.0, "loss": 0.0}


@dataclass(frozen=True)
class Made:
    """A detector, with the MACs of an image."""

    net: nn.Module
    macs: int
    device: torch.device


def nets(name: str, speedup: float, device: torch.device) -> Iterator[tuple[str, Made]]:
    """The dense detector, and the pruned one."""
    image = torch.zeros(1, 3, SIDE, SIDE, device=device)
    torch.manual_seed(0)
    dense = build_model(name, replace(facts_of(registry.dataset.entry("digits-detection")), image_size=SIDE)).to(device)
    for kind, net in (("dense", dense), (f"{speedup:g}x", raybench.prune(dense, image, speedup).model)):
        yield kind, Made(net, count_macs(net, image), device)


def ours(made: Made, images: int) -> Callable[[], object]:
    """One epoch of raybench's."""
    net, task = copy.deepcopy(made.net), TrainingAlone(_data(images), made.device)
    return lambda: task.train(net, RECIPE, seed=0, checkpoint=Nothing(), select="last")


def plain(made: Made, images: int) -> Callable[[], object]:
    """One epoch of the usual loop: the same images and loss, torch's plain optimizer."""
    net, data = copy.deepcopy(made.net), _data(images)
    freeze_integral(net)
    loss_of = criterion_of(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=RECIPE.lr, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        net.train()
        loader = TrainingImages(data.train, data.names, SIDE, augmentation(RECIPE, 0))
        order = [part.numpy() for part in torch.randperm(images).split(BATCH)]
        for batch in loader.batches(order, (0, 0), workers_for(made.device)):
            truth = {name: batch[name].to(made.device) for name in ("batch_idx", "cls", "bboxes")}
            loss = loss_of(net.training_outputs(normalised(batch["img"].to(made.device)), truth), truth)[0].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def _data(images: int) -> BoxData:
    facts = facts_of(registry.dataset.entry("digits-detection"))
    return digits_detection(facts, None, train=images, val=2, test=2, image_size=SIDE)


def bare(made: Made, images: int) -> Callable[[], object]:
    """Forward, loss, backward and optimizer on batches that are ready: the least that an epoch can take."""
    net, data = copy.deepcopy(made.net).train(), _data(images)
    freeze_integral(net)
    loss_of = criterion_of(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=RECIPE.lr, momentum=0.9, weight_decay=5e-4, fused=True)
    loader = TrainingImages(data.train, data.names, SIDE, augmentation(RECIPE, 0))
    order = [part.numpy() for part in torch.randperm(images).split(BATCH)]
    batches = [
        (normalised(batch["img"].to(made.device)),
         {name: batch[name].to(made.device) for name in ("batch_idx", "cls", "bboxes")})
        for batch in loader.batches(order, (0, 0), workers_for(made.device))
    ]  # fmt: skip

    def epoch() -> None:
        for pixels, truth in batches:
            optimizer.zero_grad()
            loss_of(net.training_outputs(pixels, truth), truth)[0].sum().backward()
            optimizer.step()

    return epoch
