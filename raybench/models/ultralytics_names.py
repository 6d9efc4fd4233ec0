"""The YOLO families of ultralytics by name: v3, v5, v6, v8 to v10, 11, 12 and 26."""

from __future__ import annotations

from torch import nn

from raybench.image_size import Side
from raybench.models.ultralytics import yolo
from raybench.registry import model


@model("yolov3-tiny", args={"config": "yolov3-tiny", "scale": ""}, norm="batch", attention=False, task="detection")
@model("yolov5n", args={"config": "yolov5", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolov5s", args={"config": "yolov5", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolov5m", args={"config": "yolov5", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolov5l", args={"config": "yolov5", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolov5x", args={"config": "yolov5", "scale": "x"}, norm="batch", attention=False, task="detection")
@model("yolov6n", args={"config": "yolov6", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolov6s", args={"config": "yolov6", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolov6m", args={"config": "yolov6", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolov6l", args={"config": "yolov6", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolov6x", args={"config": "yolov6", "scale": "x"}, norm="batch", attention=False, task="detection")
@model("yolov8l", args={"config": "yolov8", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolov8x", args={"config": "yolov8", "scale": "x"}, norm="batch", attention=False, task="detection")
@model("yolov9t", args={"config": "yolov9", "scale": "t"}, norm="batch", attention=False, task="detection")
@model("yolov9s", args={"config": "yolov9", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolov9m", args={"config": "yolov9", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolov9c", args={"config": "yolov9", "scale": "c"}, norm="batch", attention=False, task="detection")
@model("yolov9e", args={"config": "yolov9", "scale": "e"}, norm="batch", attention=False, task="detection")
@model("yolov10n", args={"config": "yolov10", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolov10s", args={"config": "yolov10", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolov10m", args={"config": "yolov10", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolov10b", args={"config": "yolov10", "scale": "b"}, norm="batch", attention=False, task="detection")
@model("yolov10l", args={"config": "yolov10", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolov10x", args={"config": "yolov10", "scale": "x"}, norm="batch", attention=False, task="detection")
@model("yolo11s", args={"config": "yolo11", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolo11m", args={"config": "yolo11", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolo11l", args={"config": "yolo11", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolo11x", args={"config": "yolo11", "scale": "x"}, norm="batch", attention=False, task="detection")
@model("yolo12n", args={"config": "yolo12", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolo12s", args={"config": "yolo12", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolo12m", args={"config": "yolo12", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolo12l", args={"config": "yolo12", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolo12x", args={"config": "yolo12", "scale": "x"}, norm="batch", attention=False, task="detection")
@model("yolo26n", args={"config": "yolo26", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolo26s", args={"config": "yolo26", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolo26m", args={"config": "yolo26", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolo26l", args={"config": "yolo26", "scale": "l"}, norm="batch", attention=False, task="detection")
@model("yolo26x", args={"config": "yolo26", "scale": "x"}, norm="batch", attention=False, task="detection")
def detector(num_classes: int, in_channels: int, image_size: Side, *, config: str, scale: str) -> nn.Module:
    """A YOLO of ultralytics with initial weights, by its configuration and scale.

    Input and output are those of `yolo`.

    From YOLOv10 and YOLO26, whose boxes need no suppression, the output in eval mode is ((n, boxes, 6) x1 y1 x2 y2
    score class, raw maps).
    """
    return yolo(num_classes, in_channels, image_size, config=config, scale=scale)
