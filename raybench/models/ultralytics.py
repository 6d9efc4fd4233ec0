"""YOLO detectors of ultralytics without split operations, so that every channel can be traced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.models.file_kinds import plain
from raybench.models.offline import offline
from raybench.models.ultralytics_blocks import halved, without_splits
from raybench.models.ultralytics_checkpoint import read_checkpoint
from raybench.registry import model

with offline():
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.modules.block import Attention
    from ultralytics.nn.modules.head import Detect
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

SCALES = {"tiny": [0.33, 0.125, 256]}  # depth, width, maximum channels; in addition to ultralytics' n to x
COUNTERS = ("total_ops", "total_params")  # that ultralytics' FLOP counter leaves in a state dict
_NUMBERED = re.compile(r"^(?:[A-Za-z_]\w*\.)*?(\d+\..+)$")  # a layer's number and the rest of its tensor's name
STRIDE = 32  # of the coarsest feature map


@model("yolov8n", args={"config": "yolov8", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("yolov8s", args={"config": "yolov8", "scale": "s"}, norm="batch", attention=False, task="detection")
@model("yolov8m", args={"config": "yolov8", "scale": "m"}, norm="batch", attention=False, task="detection")
@model("yolo11n", args={"config": "yolo11", "scale": "n"}, norm="batch", attention=False, task="detection")
@model("test-detector", args={"config": "yolov8", "scale": "tiny"}, norm="batch", attention=False, task="detection")
def yolo(num_classes: int, in_channels: int, image_size: int, *, config: str, scale: str) -> nn.Module:
    """A YOLO of ultralytics' configuration `config` at `scale`, with initial weights.

    Input: (n, 3, h, w) in 0..1, h and w multiples of 32. Output in eval mode: ((n, 4 + classes, anchors) boxes xywh
    and scores, raw maps); in train mode: the raw maps, as ultralytics' loss takes them.
    """
    if image_size % STRIDE:
        raise UserError(f"image_size {image_size}: YOLO needs a multiple of {STRIDE}")
    return Detector(architecture(config, scale), in_channels, num_classes)


def architecture(config: str, scale: str) -> dict[str, Any]:
    """Ultralytics' own configuration file as a dict, at one scale."""
    found = yaml_model_load(f"{config}n.yaml")
    found["scales"] |= SCALES
    return found | {"scale": scale, "yaml_file": f"{config}{scale}.yaml"}


class Detector(DetectionModel):
    """An ultralytics detection model without split operations; `protected_layers` keep their width."""

    model: nn.Sequential

    def __init__(self, config: dict[str, Any], in_channels: int, num_classes: int) -> None:
        super().__init__(config, ch=in_channels, nc=num_classes, verbose=False)
        self.args = get_cfg()  # the gains of ultralytics' loss
        self.args.task = self.task = "detect"
        self.head.dynamic = True  # compute anchors in every call: cached ones would bind the model to one device
        self.split_free = tuple(f"model.{name}" for name in without_splits(self.model))

    @property
    def head(self) -> Detect:
        """The last layer, which predicts boxes and classes."""
        head = self.model[-1]
        assert isinstance(head, Detect)  # of every configuration of a detection model
        return head

    def predict(self, *args: Any, **named: Any) -> Any:
        """Ultralytics' outputs, with the head's input maps (only their shapes are used later) detached from the graph.

        Attached, they would count as outputs of the model, whose channels can't be pruned.
        """
        outputs = super().predict(*args, **named)
        if isinstance(outputs, Tensor):
            return outputs
        raw = outputs[1] if isinstance(outputs, tuple) else outputs
        raw["feats"] = [features.detach() for features in raw["feats"]]
        return outputs

    @property
    def protected_layers(self) -> tuple[str, ...]:
        """Layers that keep their width: the head's last convolutions, its fixed integral, and attention blocks.

        Attention's queries, keys and values are views into one convolution, its scale depends on their width, and its
        output has the shape of its input.
        """
        head = f"model.{len(self.model) - 1}"
        outputs = [f"{head}.{part}.{level}.2" for part in ("cv2", "cv3") for level in range(self.head.nl)]
        attention = [name for name, module in self.named_modules() if isinstance(module, Attention)]
        return (*outputs, f"{head}.dfl", *attention)

    def for_export(self) -> Detector:
        """Switch the output to boxes and scores (n, 4 + classes, anchors) without raw maps; returns itself."""
        self.head.export = True
        return self

    def save_for_ultralytics(self, path: Path, names: Sequence[str], image_size: int) -> None:
        """Write a checkpoint that `ultralytics.YOLO(path)` loads; it contains no class of raybench."""
        from raybench.models.ultralytics_export import save

        save(self, path, names, image_size)

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """Weights from an ultralytics checkpoint, a state dict or safetensors, renamed to this model's names.

        UserError when the file can't be read without running its code.
        """
        state = read_checkpoint(path)
        try:
            return self.own_names(state)
        except (RuntimeError, ValueError, NotImplementedError) as error:  # a tensor that can't be cut in halves
            raise UserError(f"{path}: these are not weights of this Detector: {plain(str(error))}") from error

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict from ultralytics' names to this model's, without prefixes such as `module.` before them.

        One in this model's names is unchanged; what isn't part of a list of layers is left out.
        """
        numbered = {found[1]: value for name, value in state.items() if (found := _NUMBERED.search(name))}
        state = {f"model.{name}": value for name, value in numbered.items() if not name.endswith(COUNTERS)} or dict(
            state
        )
        return state if f"{self.split_free[0]}.cv0.conv.weight" in state else halved(state, self.split_free)


def normalised(images: Tensor) -> Tensor:
    """uint8 images as float32 in 0..1; ultralytics' models subtract no mean."""
    return images.to(torch.float32) / 255
