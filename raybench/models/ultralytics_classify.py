"""Classifiers of ultralytics (yolo11n-cls and others), which give class scores before softmax in every mode."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from raybench.errors import UserError
from raybench.image_size import Side, sides, written
from raybench.models.offline import offline
from raybench.models.ultralytics import STRIDE, architecture
from raybench.models.ultralytics_model import LayeredModel
from raybench.registry import model

with offline():
    from ultralytics.nn.modules.block import Attention
    from ultralytics.nn.tasks import ClassificationModel


@model("yolov8n-cls", args={"config": "yolov8", "scale": "n"}, norm="batch", attention=False, task="classification")
@model("yolov8s-cls", args={"config": "yolov8", "scale": "s"}, norm="batch", attention=False, task="classification")
@model("yolov8m-cls", args={"config": "yolov8", "scale": "m"}, norm="batch", attention=False, task="classification")
@model("yolo11n-cls", args={"config": "yolo11", "scale": "n"}, norm="batch", attention=False, task="classification")
@model("yolo11s-cls", args={"config": "yolo11", "scale": "s"}, norm="batch", attention=False, task="classification")
@model("yolo11m-cls", args={"config": "yolo11", "scale": "m"}, norm="batch", attention=False, task="classification")
@model("yolo26n-cls", args={"config": "yolo26", "scale": "n"}, norm="batch", attention=False, task="classification")
@model("yolo26s-cls", args={"config": "yolo26", "scale": "s"}, norm="batch", attention=False, task="classification")
@model("yolo26m-cls", args={"config": "yolo26", "scale": "m"}, norm="batch", attention=False, task="classification")
def yolo_classifier(num_classes: int, in_channels: int, image_size: Side, *, config: str, scale: str) -> nn.Module:
    """A classifier of ultralytics with initial weights, by its configuration and scale."""
    if min(sides(image_size)) < STRIDE:
        problem = f"found {written(image_size)}, expected at least 32"
        raise UserError(f"{config}{scale}-cls halves its images five times; {problem}")
    found = architecture(config, scale, "-cls")
    return Classifier(found, in_channels, num_classes)


class Classifier(LayeredModel, ClassificationModel):
    """An ultralytics classifier without split operations; attention blocks keep their width."""

    model: nn.Sequential

    def prepare(self) -> None:
        """Replace splits, of a model that ultralytics has built."""
        self.task = "classify"
        super().prepare()

    def predict(self, *args: Any, **named: Any) -> Tensor:
        """Scores before softmax (n, classes); ultralytics gives them in train mode, and beside others in eval mode."""
        outputs = super().predict(*args, **named)
        scores: Tensor = outputs[1] if isinstance(outputs, tuple) else outputs
        return scores

    def for_export(self) -> LayeredModel:
        """The model itself: its output is a tensor in every mode."""
        return self

    @property
    def protected_layers(self) -> tuple[str, ...]:
        """Attention blocks, whose queries, keys and values are views into one convolution."""
        return tuple(name for name, module in self.named_modules() if isinstance(module, Attention))
