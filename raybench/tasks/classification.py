"""Image classification: top-1 and top-5 in percent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.datasets.data import Data
from raybench.datasets.facts import DataFacts, Split
from raybench.datasets.transfer import sent
from raybench.errors import UserError, counted, with_article
from raybench.methods.protocols import Calibration, Regularizer
from raybench.models.strided import strided_in_nchw
from raybench.pauses import pause
from raybench.registry import task
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import EXACT, Speed
from raybench.tasks.protocol import Checkpoint, Training, check_calibration
from raybench.tasks.training.augment import check_augment
from raybench.tasks.training.batches import training_batches
from raybench.tasks.training.computing import choose, exact, kernels, laid_out, plain_steps
from raybench.tasks.training.loop import EpochInputs, batch_order, fit, run_epoch
from raybench.tasks.training.loss import needs_teacher
from raybench.tasks.training.optimize import make_optimizer, set_apart
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.resizing import pixels_share
from raybench.tasks.training.scale import Scale
from raybench.tasks.training.seeding import generator
from raybench.tasks.training.steps import Stepper
from raybench.tasks.training.team import ALONE, Team

EVALUATION_BATCH = 250  # images; a constant, so that a figure never depends on the recipe


@task("classification")
class Classification:
    """One classification dataset on one device (the Task protocol)."""

    metric = "top1"

    def __init__(self, data: Data, device: torch.device, speed: Speed = EXACT, team: Team = ALONE) -> None:
        """`speed`: how to train, with every default filled in. `team`: processes that train and evaluate together."""
        self.data: DataFacts = data.facts
        self._team = team
        self._speed = speed
        self._splits, self._device = data, device
        self._normalise = Scale.of(self.data.mean, self.data.std, device)

    @torch.no_grad()
    def check(self, model: nn.Module) -> None:
        """UserError unless `model` maps one black image, in eval mode, to a tensor (1, classes)."""
        facts = self.data
        was_training = model.training
        model.eval()
        outputs = model(torch.zeros(1, *facts.image_shape, device=self._device))
        model.train(was_training)
        if not isinstance(outputs, Tensor) or outputs.shape != (1, facts.classes):
            raise UserError(
                f"model {type(model).__name__}: found {_described(outputs)} for one image; it must give one tensor "
                f"(1, {facts.classes}), because dataset {facts.name!r} has {counted(facts.classes, 'class', 'classes')}"
            )

    def check_recipe(self, stages: Sequence[TrainRecipe], calibration_images: int) -> None:
        """UserError for an unknown augmentation, or more calibration images than the training split has."""
        for recipe in stages:
            check_augment(recipe)
        check_calibration(self.data, calibration_images, len(self._splits.train))

    def train(
        self,
        model: nn.Module,
        recipe: TrainRecipe,
        *,
        seed: int,
        checkpoint: Checkpoint,
        regularizer: Regularizer | None = None,
        teacher: nn.Module | None = None,
        select: Literal["val", "test", "last"] = "val",
    ) -> Training:
        """Train `model` in place; see `Task.train`. The curve's metric is that of the split that selects.

        With `select="test"`, the published rules, only full batches are trained on, as in torch-pruning's script.

        UserError before the first step when the model's outputs don't match the data's classes.
        """
        check_augment(recipe)
        self.check(model)
        split: Split = "test" if select == "test" else "val"
        images, published = self._splits.train, select == "test"
        shape = (recipe.batch_size, *self.data.image_shape)
        check_shares(self._team, len(images), recipe.batch_size)
        state = checkpoint.load()
        before = state.get("computing") if state else None
        computing = choose(model, self._speed, self._device, shape, amp=recipe.amp, before=before)
        computing = self._team.agreed(computing)
        computing = plain_steps(computing) if self._team.size > 1 else computing
        computing = plain_steps(computing, "a loss of the network's own") if needs_teacher(model) else computing
        left = recipe.epochs - (state["epoch"] if state else 0)
        steps = left * -(-len(images) // recipe.batch_size)
        stepper = Stepper(recipe, computing, self._device, teacher, steps, self._team)
        inputs = EpochInputs(images, recipe, self._normalise, seed, self._device, stepper, drop_last=published)
        try:
            training = fit(
                model,
                inputs,
                run_epoch,
                set_apart(make_optimizer(model, recipe, self._device), regularizer),
                checkpoint=checkpoint,
                state=state,
                regularizer=regularizer,
                validate=lambda net: self.evaluate(net, split),
                metric=self.metric,
                keep_best=select != "last",
                computing=computing,
                team=self._team,
            )
        finally:
            used = stepper.close()
        pixels = pixels_share(recipe, self.data.image_shape[1:])
        return replace(training, computing=used.columns() | ({} if pixels is None else {"train_pixels": pixels}))

    @property
    def training_images(self) -> int:
        """How many images an epoch has."""
        return len(self._splits.train)

    def training_steps(self, model: nn.Module, recipe: TrainRecipe) -> Iterator[int]:
        """Take the steps of `train` one after another, without end and without validation; yields images of a step."""
        shape = (recipe.batch_size, *self.data.image_shape)
        computing = choose(model, self._speed, self._device, shape, amp=recipe.amp)
        stepper = Stepper(recipe, computing, self._device, None, recipe.epochs)
        progress = TrainingState(model.train(), make_optimizer(model, recipe, self._device), None, None)
        images, strides = self._splits.train, computing.strides
        with kernels(self._device, computing), strided_in_nchw(model), laid_out(model, strides):
            for epoch in itertools.count():
                order = batch_order(len(images), 0, epoch, recipe.batch_size, drop_last=False)
                draw = generator(0, epoch, "augment")
                for mixed in training_batches(images, recipe, order, draw, self._normalise, strides):
                    stepper(progress, mixed)
                    yield len(mixed.labels)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """top1 and top5 in percent and the mean loss, in eval mode over the whole split."""
        images = self._splits.split(split)
        was_training = model.training
        model.eval()
        with torch.inference_mode(), exact(self._device):
            sums = torch.zeros(3, dtype=torch.float64, device=self._device)  # read once: each read waits for the device
            order = self._team.dealt(torch.arange(len(images)).split(EVALUATION_BATCH))
            for indices, batch in zip(order, images.batches(order, self._device, None), strict=True):
                labels = sent(images.labels[indices], self._device)
                outputs = model(self._normalise(batch)).float()
                ranked = outputs.topk(min(5, outputs.shape[1]), 1).indices == labels[:, None]
                loss = F.cross_entropy(outputs, labels, reduction="sum")
                sums += torch.stack([ranked[:, 0].sum(), ranked.any(1).sum(), loss.double()])
                pause()
        model.train(was_training)
        top1, top5, total = self._team.sums(*sums.tolist())
        count = len(images)
        return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": total / count}

    def calibration(self, images: int, batch_size: int, seed: int) -> Calibration:
        """`images` training images without augmentation, drawn uniformly by the seed (not stratified by class)."""
        self.check_recipe((), images)
        found = self._splits.train
        chosen = torch.randperm(len(found), generator=generator(seed, "calibration"))[:images]
        pixels = torch.cat(list(found.batches(chosen.split(batch_size), self._device, None)))
        labels = found.labels[chosen].to(self._device)
        return Calibration(
            self._normalise(pixels), labels, batch_size, F.cross_entropy, generator(seed, "calibration labels")
        )


def check_shares(team: Team, images: int, batch_size: int) -> None:
    """UserError unless every process of `team` has an image of every batch of an epoch over `images`."""
    smallest = images // -(-images // batch_size)
    if smallest < team.size:
        raise UserError(
            f"resources: found {team.size} processes a cell, expected at most {smallest}: so many images has the "
            f"smallest batch (batch_size {batch_size}, {counted(images, 'training image')})"
        )


def _described(outputs: object) -> str:
    """Text for a network's outputs: `a tuple of (1, 10), (1, 32)`."""
    if isinstance(outputs, Tensor):
        return f"a tensor {tuple(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"{with_article(type(outputs).__name__)} with the keys {', '.join(map(str, outputs))}"
    if isinstance(outputs, (tuple, list)):
        inner = [str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in outputs]
        return f"{with_article(type(outputs).__name__)} of {', '.join(inner)}"
    return type(outputs).__name__
