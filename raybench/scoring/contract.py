"""Checks what a criterion returns while a network is scored, so that a wrong shape never becomes a wrong cut."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from raybench.errors import StageError
from raybench.methods.protocols import ElementwiseImportance, Importance, Layer, NeighbourImportance


def layer_scores(criterion: Importance, layer: Layer) -> Tensor | None:
    """`criterion.layer_scores(layer)`.

    Raises:
        StageError: it isn't None or a tensor with one value for each channel, none of them negative. It names the
            criterion and the layer.
    """
    found: Any = criterion.layer_scores(layer)
    if found is None:
        return None
    channels = layer.weight.shape[0]
    _check(found, (channels,), f"{_name(criterion)}.layer_scores of {_side(layer)}", "one score for each channel")
    return found


def saliency(criterion: ElementwiseImportance | NeighbourImportance, layer: Layer) -> Tensor:
    """`criterion.saliency(layer)`.

    Raises:
        StageError: it isn't a tensor of the weight's shape without negative values. It names the criterion and the
            layer.
    """
    found: Any = criterion.saliency(layer)
    where = f"{_name(criterion)}.saliency of {_side(layer)}"
    _check(found, tuple(layer.weight.shape), where, "one score for each weight")
    return found


def _check(found: Any, shape: tuple[int, ...], where: str, what: str) -> None:
    if not isinstance(found, Tensor):
        raise StageError("select", f"{where}: found {type(found).__name__}, expected a tensor {shape}, {what}")
    if tuple(found.shape) != shape:
        raise StageError("select", f"{where}: found the shape {tuple(found.shape)}, expected {shape}, {what}")
    if bool((found < 0).any()):
        raise StageError("select", f"{where}: found negative scores, expected 0 or more")


def _name(criterion: Importance) -> str:
    return type(criterion).__name__


def _side(layer: Layer) -> str:
    return f"layer {layer.name!r} ({layer.kind}, {layer.side} side)"
