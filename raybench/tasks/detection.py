"""Object detection with ultralytics' loss, augmentation and validator: mAP50-95 and mAP50 in percent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from raybench.datasets.boxes import BoxData
from raybench.datasets.facts import DataFacts, Split
from raybench.datasets.label_cache import LabelSource
from raybench.errors import UserError, counted
from raybench.image_size import sides
from raybench.methods.protocols import Calibration, Regularizer
from raybench.models.ultralytics import Detector, normalised
from raybench.models.ultralytics_rtdetr import TransformerDetector
from raybench.pauses import pause
from raybench.registry import task
from raybench.storage.base import Storage
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import check_shares
from raybench.tasks.detection_images import PlainImages, Squares, workers_for
from raybench.tasks.detection_loss import AnyDetector, Criterion, criterion_for, criterion_of, raw_of, summed
from raybench.tasks.detection_metrics import Meter, detections
from raybench.tasks.detection_team import of_whole_batches
from raybench.tasks.detection_training import EpochInputs, check_recipe, freeze_integral, make_optimizer, run_epoch
from raybench.tasks.protocol import Checkpoint, Training, check_calibration
from raybench.tasks.training.computing import exact
from raybench.tasks.training.loop import fit
from raybench.tasks.training.optimize import set_apart
from raybench.tasks.training.seeding import generator
from raybench.tasks.training.team import ALONE, Team

EVALUATION_BATCH = 16  # images; a constant, so that a figure never depends on the recipe


@task("detection")
class Detection:
    """One detection dataset on one device (the Task protocol)."""

    metric = "mAP50-95"

    def __init__(
        self,
        data: BoxData | LabelSource,
        device: torch.device,
        storage: Storage | None = None,
        team: Team = ALONE,
    ) -> None:
        """`team`: processes that train and evaluate together."""
        self._team = team
        self._data = data.opened(storage) if isinstance(data, LabelSource) else data
        self.data: DataFacts = replace(self._data.facts, class_names=self._data.names)
        self._device = device
        self._side = max(sides(self.data.image_size))  # images keep their shape; this is their longer side

    def check(self, model: nn.Module) -> None:
        """UserError unless `model` detects this dataset's classes."""
        self._checked(model)

    def check_recipe(self, stages: Sequence[TrainRecipe], calibration_images: int) -> None:
        """UserError for a setting that detection doesn't support, or too many calibration images."""
        for recipe in stages:
            check_recipe(recipe)
        check_calibration(self.data, calibration_images, len(self._data.train))

    @property
    def training_images(self) -> int:
        """How many images an epoch has."""
        return len(self._data.train)

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
        """Train `model` in place; see `Task.train`. UserError before the first step for an unsupported setting.

        All images are trained on, whatever selects the epoch: ultralytics' trainer drops none.
        """
        check_recipe(recipe)
        detector = self._checked(model)
        if self._team.size > 1 and isinstance(detector, TransformerDetector):
            raise UserError(f"resources: found {self._team.size} processes a cell, expected 1 for an RT-DETR")
        freeze_integral(detector)
        split: Split = "test" if select == "test" else "val"
        check_shares(self._team, len(self._data.train), recipe.batch_size)
        criterion = of_whole_batches(criterion_of(detector), self._team)
        inputs = EpochInputs(self._data, recipe, seed, self._device, criterion, self._team)
        return fit(
            model,
            inputs,
            run_epoch,
            set_apart(make_optimizer(detector, recipe, self._device), regularizer),
            checkpoint=checkpoint,
            state=checkpoint.load(),
            regularizer=regularizer,
            validate=lambda net: self.evaluate(net, split),
            metric=self.metric,
            keep_best=select != "last",
            team=self._team,
        )

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """mAP50-95 and mAP50 in percent and the mean loss per image, in eval mode over the whole split."""
        detector = self._checked(model)
        truth = self._data.split(split)
        images = PlainImages(truth, self._side, stretched=detector.stretched)
        order, mine = list[int](), dict[int, Tensor]()
        loss_of = DetectionLoss(detector)
        was_training, loss = model.training, 0.0
        model.eval()
        with torch.no_grad(), exact(self._device):
            batches = images.batches(EVALUATION_BATCH, workers_for(self._device))
            for number, (indices, pixels) in enumerate(batches):
                order += indices
                if number % self._team.size != self._team.rank:  # another process's
                    continue
                predictions = model(normalised(pixels.to(self._device)))
                shape = (pixels.shape[2], pixels.shape[3])
                targets = padded_targets(images, indices, shape).to(self._device)
                loss += float(loss_of(predictions, targets)) * len(indices)
                boxes = detector.boxes(predictions, shape).float()
                for index, found in zip(indices, detections(boxes), strict=True):
                    mine[index] = images.in_original(found, shape, index).cpu()
                pause()
        model.train(was_training)
        meter, every = Meter(self._data.names), self._team.united(mine)
        for index in order:
            meter.add(every[index], truth, index)
        return meter.result() | {"loss": self._team.sums(loss)[0] / len(truth)}

    def calibration(self, images: int, batch_size: int, seed: int) -> Calibration:
        """`images` training images as padded squares, read batch by batch, with their boxes (images, most, 5).

        Targets are those of `padded_targets`; the loss is ultralytics'.
        """
        self.check_recipe((), images)
        found = self._data.train
        draw = torch.randperm(len(found), generator=generator(seed, "calibration"))[:images]
        size = self._side
        plain = PlainImages(found.chosen(draw.numpy()), size, square=True)
        targets = padded_targets(plain, range(images), (size, size))
        return Calibration(
            cast(Tensor, Squares(plain)),  # only its length and slices are used
            targets.to(self._device),
            batch_size,
            DetectionLoss(None, size),
            generator(seed, "calibration labels"),
        )

    def _checked(self, model: nn.Module) -> AnyDetector:
        """`model` itself; UserError unless it detects this dataset's classes."""
        if not isinstance(model, (Detector, TransformerDetector)):
            raise UserError(f"dataset {self.data.name!r} needs a detection model; found {type(model).__name__}")
        if model.head.nc != self.data.classes:
            classes = counted(self.data.classes, "class", "classes")
            raise UserError(f"dataset {self.data.name!r} has {classes}, the model {model.head.nc}")
        return model


class DetectionLoss:
    """Ultralytics' loss per image (all its terms) of a model's output and padded targets."""

    def __init__(self, model: AnyDetector | None, size: int | None = None) -> None:
        """With `model` None, the loss is built at the first call for the output's kind, classes and device.

        `size`: the side of the images in pixels, where `model` is None.
        """
        self._loss: Criterion | None = criterion_of(model) if model is not None else None
        self._size = size

    def __call__(self, output: Any, targets: Tensor) -> Tensor:
        """Mean over the batch, a scalar; `targets` come from `padded_targets`."""
        raw = raw_of(output)
        if self._loss is None:
            self._loss = criterion_for(raw, self._size)
        here = (targets[:, :, 0] >= 0).nonzero(as_tuple=True)
        rows = targets[here]
        truth = {"batch_idx": here[0].float(), "cls": rows[:, 0], "bboxes": rows[:, 1:]}
        return summed(self._loss, self._loss(raw, truth)[0].sum(), len(targets)) / len(targets)


def padded_targets(images: PlainImages, indices: Iterable[int], shape: tuple[int, int]) -> Tensor:
    """(images, most boxes, 5) float32: class and box (xywh, relative to the padded image); rows of -1 fill up."""
    rows = [np.concatenate(images.padded(i, shape), 1) for i in indices]
    targets = np.full((len(rows), max(1, *map(len, rows)), 5), -1, np.float32)
    for target, row in zip(targets, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(targets)
