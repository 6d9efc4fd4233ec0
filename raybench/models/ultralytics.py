"""YOLO detectors of ultralytics without split operations, so that every channel can be traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.image_size import Side, sides, written
from raybench.models.box_output import BoxOutput
from raybench.models.offline import offline
from raybench.models.ultralytics_model import LayeredModel
from raybench.registry import model

with offline():
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.modules.block import DFL, Attention
    from ultralytics.nn.modules.head import Detect
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

SCALES = {"tiny": [0.33, 0.125, 256]}  # depth, width, maximum channels; in addition to ultralytics' n to x
STRIDE = 32  # of the coarsest feature map
BRANCHES = ("cv2", "cv3", "one2one_cv2", "one2one_cv3")  # of a head; the last two only where it needs no suppression


@model("yolov8n", args={"config": "yolov8", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolov8s", args={"config": "yolov8", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolov8m", args={"config": "yolov8", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolo11n", args={"config": "yolo11", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("test-detector", args={"config": "yolov8", "scale": "tiny"}, norm="batch", attention=False, task="detection")
def yolo(num_classes: int, in_channels: int, image_size: Side, *, config: str, scale: str) -> nn.Module:
    """A YOLO of ultralytics with initial weights, by its configuration and scale.

    Input: (n, 3, h, w) in 0..1, h and w multiples of 32. Output in eval mode: ((n, 4 + classes, anchors) boxes xywh
    and scores, raw maps); in train mode: the raw maps, as ultralytics' loss takes them.
    """
    if any(side % STRIDE for side in sides(image_size)):
        raise UserError(f"image_size {written(image_size)}: YOLO needs a multiple of {STRIDE}")
    return Detector(architecture(config, scale), in_channels, num_classes)


def architecture(config: str, scale: str, kind: str = "") -> dict[str, Any]:
    """Ultralytics' own configuration file as a dict, at one scale; `kind`: what stands behind it, such as ``-cls``."""
    found = yaml_model_load(f"{config}{'n' if scale in SCALES else scale}{kind}.yaml")
    scales = found.get("scales", {}) | (SCALES if scale in SCALES else {})
    name = {"yaml_file": f"{config}{scale}{kind}.yaml"}
    if not scales:  # a file of one size, such as YOLOv9's
        return found | name
    return found | name | {"scales": scales, "scale": scale if scale in scales else next(iter(scales))}


class Detector(LayeredModel, DetectionModel):
    """An ultralytics detection model without split operations; `protected_layers` keep their width.

    Heads that need no suppression (YOLOv10, YOLO26) have two branches; both are trained, one predicts.
    """

    model: nn.Sequential
    stretched = False  # images keep their shape and are padded

    def prepare(self) -> None:
        """Replace splits and set up the head, of a model that ultralytics has built."""
        self.args = get_cfg()  # the gains of ultralytics' loss
        self.args.task = self.task = "detect"
        self.head.dynamic = True  # compute anchors in every call: cached ones would bind the model to one device
        super().prepare()

    @property
    def head(self) -> Detect:
        """The last layer, which predicts boxes and classes."""
        head = self.model[-1]
        assert isinstance(head, Detect)  # of every configuration of a detection model
        return head

    @property
    def box_output(self) -> BoxOutput:
        """A branch that needs no suppression gives the best boxes, best first; the other gives every box."""
        return BoxOutput(axis=2, ranked=True) if self.head.end2end else BoxOutput(axis=1, ranked=False)

    def predict(self, *args: Any, **named: Any) -> Any:
        """Ultralytics' outputs, with the head's input maps (only their shapes are used later) detached from the graph.

        Attached, they would count as outputs of the model, whose channels can't be pruned.
        """
        outputs = super().predict(*args, **named)
        if isinstance(outputs, Tensor):
            return outputs
        raw = outputs[1] if isinstance(outputs, tuple) else outputs
        for branch in (raw["one2many"], raw["one2one"]) if "one2many" in raw else (raw,):
            branch["feats"] = [features.detach() for features in branch["feats"]]
        return outputs

    def training_outputs(self, images: Tensor, truth: Mapping[str, Tensor]) -> Any:
        """The outputs of which ultralytics takes the loss; `truth` (batch_idx, cls, bboxes) isn't used."""
        return self(images)

    def boxes(self, outputs: Any, shape: tuple[int, int]) -> Tensor:
        """Boxes of an output in eval mode: (images, 4 + classes, anchors) xywh and scores, in pixels of the input.

        From a head that needs no suppression (images, boxes, 6): x1 y1 x2 y2 score class.
        """
        found: Tensor = outputs[0]
        return found

    @property
    def protected_layers(self) -> tuple[str, ...]:
        """Layers that keep their width: the head's last convolutions, its fixed integral, and attention blocks.

        Attention's queries, keys and values are views into one convolution, its scale depends on their width, and its
        output has the shape of its input.
        """
        head = f"model.{len(self.model) - 1}"
        parts = [part for part in BRANCHES if getattr(self.head, part, None) is not None]
        outputs = [f"{head}.{part}.{level}.2" for part in parts for level in range(self.head.nl)]
        integral = [f"{head}.dfl"] if isinstance(self.head.dfl, DFL) else []
        attention = [name for name, module in self.named_modules() if isinstance(module, Attention)]
        return (*outputs, *integral, *attention)


def normalised(images: Tensor) -> Tensor:
    """uint8 images as float32 in 0..1; ultralytics' models subtract no mean."""
    return images.to(torch.float32) / 255
