"""Writes a pruned network of ultralytics as a checkpoint that ultralytics loads, without classes of raybench.

Ultralytics' model is a list of layers, each with the numbers of the layers that it takes its input from. So the
convolutions of a block without a split become layers of that list.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raybench.image_size import Side
from raybench.models.offline import offline
from raybench.models.ultralytics_blocks import SplitFree, SplitFreeAttention

with offline():
    from ultralytics import __version__
    from ultralytics.nn.modules.conv import Concat
    from ultralytics.nn.modules.head import Detect, RTDETRDecoder
    from ultralytics.nn.tasks import BaseModel


@dataclass
class Unrolled:
    """The list of layers while it is built."""

    layers: list[nn.Module] = field(default_factory=list)
    used: set[int] = field(default_factory=set)  # numbers of layers whose output is kept for a later one

    def add(self, layer: nn.Module, source: int | list[int]) -> int:
        """Append `layer` with inputs from the layers numbered `source` (-1: the image); returns its number."""
        number = len(self.layers)
        direct = source == number - 1
        attributes = {
            "i": number,
            "f": -1 if direct else source,
            "type": type(layer).__module__ + "." + type(layer).__name__,
            "np": sum(p.numel() for p in layer.parameters()),
        }
        for name, value in attributes.items():
            setattr(layer, name, value)
        self.used |= set() if direct else {source} if isinstance(source, int) else set(source)
        self.layers.append(layer)
        return number

    def add_block(self, block: SplitFree, source: int) -> int:
        """Append the layers of a block without a split; returns the number of its last layer."""
        first, last = self.add(block.cv0, source), self.add(block.cv1, source)
        inner = []
        for part in block.m:
            last = self.add(part, last)
            inner.append(last)
        only_last = isinstance(block, SplitFreeAttention)
        parts = [first, last] if only_last else [first, first + 1, *inner]
        return self.add(block.cv2, self.add(Concat(1), parts))


def unrolled(detector: BaseModel) -> BaseModel:
    """A copy of a network of raybench's, pruned or not, with the same outputs and without classes of raybench."""
    source, result = copy.deepcopy(detector).cpu().eval(), Unrolled()
    number_of: list[int] = []  # of each of the detector's own layers
    for place, layer in enumerate(_layers(source)):
        inputs = [number_of[i] if number_of else -1 for i in _sources(layer, place)]
        if isinstance(layer, SplitFree):
            number_of.append(result.add_block(layer, inputs[0]))
        else:
            number_of.append(result.add(layer, inputs if isinstance(layer.f, list) else inputs[0]))
    theirs = next(kind for kind in type(source).__mro__ if kind.__module__.startswith("ultralytics."))
    assert issubclass(theirs, BaseModel)  # the network is one
    model = theirs.__new__(theirs)
    nn.Module.__init__(model)
    names = ("yaml", "names", "inplace", "stride", "task", "nc")
    attributes = {name: getattr(source, name) for name in names if hasattr(source, name)}
    attributes |= {"model": nn.Sequential(*result.layers), "save": sorted(result.used)}
    for name, value in attributes.items():
        setattr(model, name, value)
    return model.eval()


def _layers(model: BaseModel) -> nn.Sequential:
    """Ultralytics' list of layers."""
    assert isinstance(model.model, nn.Sequential)  # in every model of ultralytics
    return model.model


def _sources(layer: nn.Module, place: int) -> Iterator[int]:
    """Numbers of the layers that `layer`, the one at `place`, takes its inputs from."""
    found: Any = layer.f  # an int or a list of them; negative ones count from `place`
    for source in found if isinstance(found, list) else [found]:
        yield place + source if source < 0 else source


def save(net: nn.Module, path: Path, names: Sequence[str], image_size: Side) -> None:
    """Write `net` for ``ultralytics.YOLO(path)``, in float32."""
    assert isinstance(net, BaseModel)  # all of ultralytics' networks
    model = unrolled(net)
    model.names = dict(enumerate(names))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    head: Any = _layers(model)[-1]
    head.export = False
    if isinstance(head, Detect):
        head.dynamic, head.shape, head.anchors, head.strides = False, None, torch.empty(0), torch.empty(0)
    elif isinstance(head, RTDETRDecoder):
        head.shapes, head.anchors, head.valid_mask = [], torch.empty(0), torch.empty(0)
    arguments = {
        "task": model.task,
        "imgsz": image_size if isinstance(image_size, int) else list(image_size),
        "single_cls": False,
    }
    torch.save({"model": model, "train_args": arguments, "version": __version__, "epoch": -1}, path)
