"""mAP by ultralytics' validator: its matching and average precision, in pixels of the original images.

Each anchor predicts one class, as in ultralytics' `predict`. A detection that matches no single object but lies in a
crowd of its class is ignored, as in COCO's own evaluation (which decides that for each threshold separately).
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raybench.datasets.boxes import BoxImages
from raybench.models.offline import offline

with offline():
    from ultralytics.models.yolo.detect.val import DetectionValidator
    from ultralytics.utils import nms, ops

# As ultralytics validates: minimum score, IoU above which a box is suppressed, maximum boxes in an image.
CONFIDENCE, OVERLAP, MOST = 0.001, 0.7, 300
IN_CROWD = 0.5  # detections with at least this share of their area in a crowd are ignored


class Meter:
    """Accumulates detections and ground truth image by image."""

    def __init__(self, names: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory(prefix="raybench-val-") as folder:  # the validator requires one
            arguments = {"task": "detect", "mode": "val", "plots": False}
            self._validator = DetectionValidator(save_dir=Path(folder), args=arguments)
        self._validator.metrics.names = dict(enumerate(names))
        self._validator.metrics.clear_stats()

    def add(self, found: Tensor, images: BoxImages, number: int) -> None:
        """Match the detections of image `number` ((n, 6): x1 y1 x2 y2 score class, best first) with its boxes."""
        span = images.boxes_of(number)
        boxes, labels, crowd = images.boxes[span], images.classes[span], images.crowd[span]
        found = found.cpu()
        truth = {"bboxes": torch.from_numpy(boxes[~crowd]).float(), "cls": torch.from_numpy(labels[~crowd]).float()}
        right = self._validator._process_batch({"bboxes": found[:, :4], "cls": found[:, 5]}, truth)["tp"]
        counted = right.any(1) | ~_inside(found, boxes[crowd], labels[crowd])
        classes = labels[~crowd]
        self._validator.metrics.update_stats(
            {
                "tp": right[counted],
                "conf": found[:, 4].numpy()[counted],
                "pred_cls": found[:, 5].numpy()[counted],
                "target_cls": classes,
                "target_img": np.unique(classes),
                "im_name": images.files[number],
            }
        )

    def result(self) -> dict[str, float]:
        """mAP50-95 and mAP50, in percent."""
        stats = self._validator.get_stats()
        return {"mAP50-95": 100 * float(stats["metrics/mAP50-95(B)"]), "mAP50": 100 * float(stats["metrics/mAP50(B)"])}


def detections(predictions: Tensor) -> list[Tensor]:
    """Non-maximum suppression: for each image (n, 6) x1 y1 x2 y2 in input pixels, score, class; best first.

    `predictions`: (images, 4 + classes, anchors), the model's output in eval mode.
    """
    # no time limit: the library's default drops boxes on a busy machine
    return nms.non_max_suppression(
        predictions, CONFIDENCE, OVERLAP, multi_label=False, max_det=MOST, max_time_img=math.inf
    )


def in_original(found: Tensor, shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Convert detections from a padded image of `shape` (h, w) to the original image of `size` (h, w)."""
    found = found.clone()
    scaled = ops.scale_boxes(shape, found[:, :4], size)
    assert isinstance(scaled, Tensor)  # as the argument
    found[:, :4] = scaled
    return found


def _inside(found: Tensor, crowds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) bool: detections with at least half of their area in a crowd of their class."""
    inside = np.zeros(len(found), dtype=bool)
    box, label = found[:, :4].double().numpy(), found[:, 5].numpy()
    area = np.maximum((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]), 1e-9)
    for crowd, kind in zip(crowds, labels, strict=True):
        common = np.minimum(box[:, 2:], crowd[2:]) - np.maximum(box[:, :2], crowd[:2])
        inside |= (label == kind) & (np.clip(common, 0, None).prod(1) / area >= IN_CROWD)
    return inside
