"""Loads weights from a file or a hub into a network, without running code from the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from raybench.errors import RaybenchWarning
from raybench.models.fill import LoadReport, fill
from raybench.models.grey import with_channels
from raybench.models.head import Head
from raybench.models.tensors import read_tensors
from raybench.models.weight_names import groups_of, match
from raybench.sweep.weights import Weights


def fill_from(model: nn.Module, weights: Weights, head: Head | None = None, *, grey: bool = False) -> LoadReport:
    """Fill `model` with a trial's given weights, from a file or a hub; with a new classifier if the trial says so.

    `head`: which tensors of the network depend on the number of classes. `grey`: whether weights of grey images may
    become those of coloured ones, or the other way round.
    """
    if weights.kind == "file":
        assert weights.path is not None  # a file's weights have a path
        return load_weights(model, Path(weights.path), head, new_head=weights.new_head, grey=grey)
    from raybench.models.hub import load_pretrained

    return load_pretrained(model, weights.identity, head, new_head=weights.new_head)


def load_weights(
    model: nn.Module, path: Path | str, head: Head | None = None, *, new_head: bool = False, grey: bool = False
) -> LoadReport:
    """Fill `model` from a file of safetensors or a torch state dict, strictly.

    Wrappers and prefixes in any order and number are taken off, whatever the file's ending is, and the zero-padded
    shortcuts of CIFAR ResNets become equivalent 1x1 convolutions. A warning names what was left out.

    Args:
        model: is filled in place.
        path: the file of weights.
        head: which tensors of the network depend on the number of classes; None: unknown.
        new_head: leave the classifier as `model` has it, whatever the file holds.
        grey: spread weights for one input channel over three, or add up those for three, where only that differs.

    Returns:
        The names of the tensors that were loaded.

    Raises:
        UserError: the file can't be read without running its code, or its weights belong to another architecture; then
            `model` is untouched.
    """
    path = Path(path)
    read: Callable[[Path], dict[str, Tensor]] | None = getattr(model, "read_weights", None)
    if read is not None:  # a model may have file formats of its own
        return fill(model, read(path), str(path), head, new_head=new_head)
    found = match(model.state_dict(), read_tensors(path), str(path))
    state = with_channels(model, found.state) if grey else found.state
    report = fill(model, state, str(path), head, new_head=new_head)
    if found.chosen:
        warnings.warn(f"{path}: {found.chosen}", RaybenchWarning, stacklevel=2)
    if found.left_out:
        left = groups_of(found.left_out)
        warnings.warn(f"{path}: left out tensors that this network doesn't have: {left}", RaybenchWarning, stacklevel=2)
    return report
