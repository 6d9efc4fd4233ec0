"""Losses of ultralytics' detectors: one branch, two branches without suppression (YOLOv10, YOLO26), RT-DETR."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raybench.models.offline import offline
from raybench.models.ultralytics import STRIDE, Detector
from raybench.models.ultralytics_rtdetr import TransformerDetector, grouped

with offline():
    from ultralytics.cfg import get_cfg
    from ultralytics.models.utils.loss import RTDETRDetectionLoss
    from ultralytics.utils.loss import E2ELoss, v8DetectionLoss

AnyDetector = Detector | TransformerDetector
Loss = tuple[Tensor, dict[str, Tensor]]


class Criterion(Protocol):
    """A loss of ultralytics: of raw outputs and a batch's boxes, as terms to sum and as named terms."""

    def __call__(self, preds: Any, batch: dict[str, Tensor]) -> Loss:
        """`batch`: batch_idx, cls and bboxes (xywh, relative to the image) of all boxes."""


class QueryLoss:
    """RT-DETR's loss; the other detectors' are multiplied by the number of images, this one isn't."""

    def __init__(self, classes: int) -> None:
        self._loss = RTDETRDetectionLoss(nc=classes, use_vfl=True)

    def __call__(self, preds: Any, batch: Mapping[str, Tensor]) -> Loss:
        """See `Criterion`; `preds` are the decoder's raw outputs, with noisy copies where it was trained with them."""
        boxes, scores, first_boxes, first_scores, noisy = preds
        images = first_boxes.shape[0]
        noisy_boxes = noisy_scores = None
        if noisy is not None:
            noisy_boxes, boxes = torch.split(boxes, noisy["dn_num_split"], dim=2)
            noisy_scores, scores = torch.split(scores, noisy["dn_num_split"], dim=2)
        found = torch.cat([first_boxes[None], boxes]), torch.cat([first_scores[None], scores])
        targets = grouped(batch, images)
        terms = self._loss(found, targets, dn_bboxes=noisy_boxes, dn_scores=noisy_scores, dn_meta=noisy)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}


def criterion_of(model: AnyDetector) -> Criterion:
    """The loss with which ultralytics trains `model`."""
    if isinstance(model, TransformerDetector):
        return QueryLoss(model.head.nc)
    return E2ELoss(model) if hasattr(model.head, "one2one_cv2") else v8DetectionLoss(model)


def criterion_for(raw: Any, size: int | None) -> Criterion:
    """The loss for raw outputs `raw` of an unknown network.

    Args:
        raw: outputs of a network in train mode.
        size: the side of its images in pixels, from which the strides follow; None: strides up to 32.
    """
    if isinstance(raw, tuple):
        return QueryLoss(raw[1].shape[-1])
    branch = raw.get("one2many", raw)
    stand_in = _StandIn(branch, size).to(branch["scores"].device)
    return E2ELoss(stand_in) if "one2many" in raw else v8DetectionLoss(stand_in)


def at_epoch(criterion: Criterion, epoch: int, epochs: int) -> None:
    """Set the weights of a loss of two branches for `epoch` (from 0) of `epochs`, as ultralytics' trainer does."""
    if isinstance(criterion, E2ELoss):
        criterion.one2one.hyp = get_cfg(overrides={"epochs": max(epochs, 1)})
        criterion.updates = epoch - 1
        criterion.update()


def summed(criterion: Criterion, loss: Tensor, images: int) -> Tensor:
    """The sum over the batch of `loss`, which `criterion` gave for `images` images."""
    return loss * images if isinstance(criterion, QueryLoss) else loss


def raw_of(output: Any) -> Any:
    """The raw outputs in a network's output, in either mode: in eval mode they are the second of two."""
    return output[1] if isinstance(output, tuple) and len(output) == 2 else output


class _StandIn(nn.Module):
    """What ultralytics' losses read of a model: strides, gains, and the numbers of classes and of distances."""

    def __init__(self, branch: Mapping[str, Any], size: int | None) -> None:
        super().__init__()
        levels = branch["feats"]
        known = [size / level.shape[-1] for level in levels] if size else None
        strides = known or [STRIDE / 2**place for place in reversed(range(len(levels)))]
        self.args = get_cfg()
        head = SimpleNamespace(
            stride=torch.tensor(strides), nc=branch["scores"].shape[1], reg_max=branch["boxes"].shape[1] // 4
        )
        self.model = [head]
        self.anchor = nn.Parameter(torch.zeros(()))  # its device is that of the loss
