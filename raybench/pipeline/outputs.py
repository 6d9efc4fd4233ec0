"""Class scores in the output of a network that `raybench.prune` was given, and their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from raybench.errors import NotSupported, UserError, counted
from raybench.groups.first_run import check_ready

Loss = Callable[[Any, Tensor], Tensor]
SCORES = ("logits", "out")  # entries with the class scores: transformers' and torchvision's names
DETECTIONS = {"boxes", "scores"}  # what torchvision's detectors return for each image
IGNORED = -100  # torch's label for what the loss leaves out
SHOWN = 5  # entries named in a message
DEEPEST = 5  # nested containers that are searched for tensors


@contextmanager
def returning_tensors(model: nn.Module) -> Iterator[None]:
    """Inside, `model` returns the tensors of its output alone, which is all that tracing can follow.

    Raises:
        NotSupported: it returns detections. Which of them it keeps can't be followed.
        UserError: there is no tensor in its output, or it can't be traced as it is.
    """

    def tensors(module: nn.Module, inputs: Any, output: Any) -> Tensor | list[Tensor]:
        if isinstance(output, Sequence) and output and all(map(_is_detections, output)):
            raise NotSupported(
                f"{type(model).__name__} returns detections (boxes and scores for each image), through which channels "
                "can't be followed. Prune a part of it and put that back: "
                "net.backbone = raybench.prune(net.backbone, example, 2).model"
            )
        found = list(_tensors(output))
        if not found:
            raise UserError(f"model: {type(model).__name__} returns {_described(output)}, expected a tensor or several")
        return output if isinstance(output, Tensor) else found

    check_ready(model)
    with model.register_forward_hook(tensors):
        yield


def return_scores(model: nn.Module) -> None:
    """From now on `model` returns the class scores alone; UserError when its output has none."""

    def scores(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        found = _scores(output)
        if found is None or found.dim() < 2:
            raise UserError(
                f"loss: {type(model).__name__} returns {_described(output)}; expected class scores (images, classes), "
                f"alone or as the entry {' or '.join(map(repr, SCORES))}. Give loss=, a function of (output, labels)"
            )
        return found

    model.register_forward_hook(scores)


def class_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; UserError for labels that don't fit the scores."""
    expected = (len(scores), *scores.shape[2:])
    if tuple(labels.shape) != expected:
        raise UserError(
            f"calibration: found labels {tuple(labels.shape)} for class scores {tuple(scores.shape)}, "
            f"expected {expected}"
        )
    wrong = labels[(labels >= scores.shape[1]) | ((labels < 0) & (labels != IGNORED))]
    if len(wrong):
        raise UserError(
            f"calibration: found label {int(wrong[0])}, expected 0 to {scores.shape[1] - 1}: "
            f"the network has {counted(scores.shape[1], 'class', 'classes')}"
        )
    return F.cross_entropy(scores, labels)


def checked(loss: Loss) -> Loss:
    """The user's `loss`; UserError when it doesn't return one number that can be differentiated."""

    def of(output: Any, labels: Tensor) -> Tensor:
        found = loss(output, labels)
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
            raise UserError(
                f"loss: the function returned {_described(found)}, expected one number that depends on the output"
            )
        return found.reshape(())

    return of


def _scores(output: Any) -> Tensor | None:
    """The tensor itself, the entry of a known name, or the only tensor; None if there is no such one."""
    if isinstance(output, Tensor):
        return output
    entries = _entries(output)
    named = [entries[name] for name in SCORES if isinstance(entries.get(name), Tensor)]
    tensors = named or [value for value in entries.values() if isinstance(value, Tensor)]
    return tensors[0] if named or len(tensors) == 1 else None


def _entries(output: Any) -> Mapping[str, Any]:
    """The entries of a mapping, a tuple or list, or an object with attributes, by name."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if isinstance(output, Sequence) and not isinstance(output, str):
        names = getattr(output, "_fields", range(len(output)))
        return {str(name): value for name, value in zip(names, output, strict=True)}
    return dict(getattr(output, "__dict__", {}))


def _tensors(output: Any, depth: int = 0) -> Iterator[Tensor]:
    """All tensors in nested mappings, sequences and objects."""
    if isinstance(output, Tensor):
        yield output
    elif depth < DEEPEST:  # an object may hold itself
        for value in _entries(output).values():
            yield from _tensors(value, depth + 1)


def _is_detections(entry: Any) -> bool:
    return isinstance(entry, Mapping) and set(entry) >= DETECTIONS


def _described(output: Any) -> str:
    """Text like `a tensor (8, 10)`, or `dict of boxes: tensor (8, 4), scores: tensor (8,)`."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    entries = _entries(output)
    shown = [f"{name}: {_short(value)}" for name, value in list(entries.items())[:SHOWN]]
    return f"{type(output).__name__} of {', '.join(shown)}" if shown else f"{type(output).__name__}"


def _short(value: Any) -> str:
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
