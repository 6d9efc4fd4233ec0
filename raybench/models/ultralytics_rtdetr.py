"""RT-DETR of ultralytics: a convolutional encoder and a transformer that decodes a fixed number of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.image_size import Side, sides, written
from raybench.models.box_output import BoxOutput
from raybench.models.offline import offline
from raybench.models.ultralytics import STRIDE, architecture
from raybench.models.ultralytics_model import LayeredModel
from raybench.registry import model

with offline():
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.modules.head import RTDETRDecoder
    from ultralytics.nn.tasks import RTDETRDetectionModel
    from ultralytics.utils.ops import xywh2xyxy

# Of the decoder: its width is that of queries, keys and values of every attention, so nothing that carries it shrinks.
WIDE = ("self_attn", "cross_attn", "linear2")


@model("rtdetr-l", args={"config": "rtdetr-", "scale": "l"}, norm="batch", attention=False, task="detection",
       one_process=True)  # fmt: skip
@model("rtdetr-x", args={"config": "rtdetr-", "scale": "x"}, norm="batch", attention=False, task="detection",
       one_process=True)  # fmt: skip
@model("rtdetr-resnet50", args={"config": "rtdetr-resnet50", "scale": ""}, norm="batch", attention=False,
       task="detection", one_process=True)  # fmt: skip
@model("rtdetr-resnet101", args={"config": "rtdetr-resnet101", "scale": ""}, norm="batch", attention=False,
       task="detection", one_process=True)  # fmt: skip
def rtdetr(num_classes: int, in_channels: int, image_size: Side, *, config: str, scale: str) -> nn.Module:
    """RT-DETR (Zhao et al. 2024), ultralytics' configurations, with initial weights.

    Input: (n, 3, s, s) in 0..1, images stretched to squares, s a multiple of 32. Output in eval mode: ((n, boxes, 6)
    with xywh as shares of the image, score and class, raw outputs); in train mode: the raw outputs.
    """
    if any(side % STRIDE for side in sides(image_size)):
        raise UserError(f"image_size {written(image_size)}: RT-DETR needs a multiple of {STRIDE}")
    return TransformerDetector(architecture(config, scale), in_channels, num_classes)


class TransformerDetector(LayeredModel, RTDETRDetectionModel):
    """An RT-DETR; the transformer's width stays, the encoder and all MLPs can shrink."""

    model: nn.Sequential
    stretched = True  # images are stretched to squares, as its authors train it

    @property
    def box_output(self) -> BoxOutput:
        """The decoder's boxes, best first."""
        return BoxOutput(axis=2, ranked=True)

    def prepare(self) -> None:
        """Replace splits, of a model that ultralytics has built."""
        self.args = get_cfg()
        self.args.task = self.task = "detect"
        super().prepare()

    @property
    def head(self) -> RTDETRDecoder:
        """The last layer: the transformer's decoder."""
        head = self.model[-1]
        assert isinstance(head, RTDETRDecoder)  # of every configuration of an RT-DETR
        return head

    def predict(self, *args: Any, **named: Any) -> Any:
        """Ultralytics' outputs, with anchors of this call: kept ones would bind the model to a device or an export."""
        self.head.shapes = []
        return super().predict(*args, **named)

    def training_outputs(self, images: Tensor, truth: Mapping[str, Tensor]) -> Any:
        """The raw outputs, with those for noisy copies of the boxes in `truth` (batch_idx, cls, bboxes)."""
        return self(images, batch=grouped(truth, len(images)))

    def boxes(self, outputs: Any, shape: tuple[int, int]) -> Tensor:
        """Boxes of an output in eval mode: (images, boxes, 6) x1 y1 x2 y2 in pixels of `shape` (h, w), score, class."""
        found: Tensor = outputs[0]
        height, width = shape
        corners = xywh2xyxy(found[..., :4]) * found.new_tensor([width, height, width, height])
        return torch.cat((corners, found[..., 4:]), -1)

    @property
    def protected_layers(self) -> tuple[str, ...]:
        """Layers that keep their width: what makes or carries queries, and the classifiers of all decoder layers."""
        head = f"model.{len(self.model) - 1}"
        decoder = [f"{head}.decoder.layers.{i}.{part}" for i in range(self.head.num_decoder_layers) for part in WIDE]
        classes = [f"{head}.dec_score_head.{i}" for i in range(self.head.num_decoder_layers)]
        return (*decoder, *classes, f"{head}.enc_score_head", f"{head}.enc_output")


def grouped(truth: Mapping[str, Tensor], images: int) -> dict[str, Any]:
    """Ultralytics' batch for RT-DETR: `truth` with the number of boxes of each image."""
    numbers = truth["batch_idx"].long().view(-1)
    return {
        "cls": truth["cls"].long().view(-1),
        "bboxes": truth["bboxes"],
        "batch_idx": numbers,
        "gt_groups": torch.bincount(numbers, minlength=images).tolist(),
    }
