"""A pruned detector as a checkpoint that ultralytics itself loads, made of ultralytics' and torch's classes alone.

Ultralytics' model is a list of layers, each with the numbers of the layers that it takes its input from. So a block
without a split needs no class of ours: its convolutions become layers of that list.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from raybench.models.offline import offline
from raybench.models.ultralytics_blocks import SplitFree, SplitFreeAttention

with offline():
    from ultralytics import __version__
    from ultralytics.nn.modules.conv import Concat
    from ultralytics.nn.tasks import DetectionModel


@dataclass
class Unrolled:
    """The list of layers while it grows."""

    layers: list[nn.Module] = field(default_factory=list)
    used: set[int] = field(default_factory=set)  # numbers of the layers whose output a later one takes

    def add(self, layer: nn.Module, source: int | list[int]) -> int:
        """Append `layer`, which takes its input from the layers numbered `source` (-1: the image); its number."""
        number = len(self.layers)
        direct = source == number - 1
        layer.i, layer.f, layer.type = (
            number,
            -1 if direct else source,
            type(layer).__module__ + "." + type(layer).__name__,
        )
        layer.np = sum(p.numel() for p in layer.parameters())
        self.used |= set() if direct else {source} if isinstance(source, int) else set(source)
        self.layers.append(layer)
        return number

    def add_block(self, block: SplitFree, source: int) -> int:
        """Append the layers of a block without a split; the number of its last."""
        first, last = self.add(block.cv0, source), self.add(block.cv1, source)
        inner = []
        for part in block.m:
            last = self.add(part, last)
            inner.append(last)
        only_last = isinstance(block, SplitFreeAttention)
        parts = [first, last] if only_last else [first, first + 1, *inner]
        return self.add(block.cv2, self.add(Concat(1), parts))


def unrolled(detector: nn.Module) -> DetectionModel:
    """A copy of `detector` (a `Detector`, pruned or not) that gives the same outputs, without raybench's classes."""
    source, result = copy.deepcopy(detector).cpu().eval(), Unrolled()
    number_of: list[int] = []  # of each of the detector's own layers
    for place, layer in enumerate(source.model):
        taken = [number_of[i] if number_of else -1 for i in _sources(layer, place)]
        inputs = taken if isinstance(layer.f, list) else taken[0]
        add = result.add_block if isinstance(layer, SplitFree) else result.add
        number_of.append(add(layer, inputs))  # type: ignore[arg-type]
    model = DetectionModel.__new__(DetectionModel)
    nn.Module.__init__(model)
    model.model, model.save = nn.Sequential(*result.layers), sorted(result.used)
    for name in ("yaml", "names", "inplace", "stride", "task"):
        setattr(model, name, getattr(source, name))
    return model.eval()


def _sources(layer: nn.Module, place: int) -> Iterator[int]:
    """Numbers of the layers that `layer`, the one at `place`, takes its inputs from."""
    for source in layer.f if isinstance(layer.f, list) else [layer.f]:
        yield place + source if source < 0 else source


def save(detector: nn.Module, path: Path, names: Sequence[str], image_size: int) -> None:
    """Write `detector` for ``ultralytics.YOLO(path)``, in float32."""
    model = unrolled(detector)
    model.names = dict(enumerate(names))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    head = model.model[-1]
    head.export, head.dynamic = False, False
    head.shape, head.anchors, head.strides = None, torch.empty(0), torch.empty(0)
    arguments = {"task": "detect", "imgsz": image_size, "single_cls": False}
    torch.save({"model": model, "train_args": arguments, "version": __version__, "epoch": -1}, path)
