"""Groups inside a block: one convolution with its batch norm makes the channels, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.errors import NotSupported
from raybench.groups.attention import eval_mode
from raybench.groups.records import Group, Groups, Member
from raybench.groups.widths import sides_of

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Internal:
    """A group whose units are the filters of one convolution, in order, with the batch norm right behind it."""

    group: str
    conv: Conv
    norm: _BatchNorm


def internals(model: nn.Module, groups: Groups, example: Tensor, method: str) -> tuple[Internal, ...]:
    """The groups of `model` that lie inside a block, as ResRep and others prune them.

    Left whole: channels that several layers make (residual streams, concatenations), grouped, depthwise and transposed
    convolutions, linear layers, and convolutions without a batch norm of torch's own right behind them.

    Args:
        model: the network; it isn't changed.
        groups: its groups.
        example: an image as the network takes it.
        method: name of the method, for the message.

    Returns:
        At least one.

    Raises:
        NotSupported: there is none; says why for one group.
    """
    owners = {key: len(found) for key, found in sides_of(groups).items()}
    why = {group.name: _why_not(model, group, owners) for group in groups}
    found = [_internal(model, group) for group in groups if why[group.name] is None]
    direct = _directly(model, example, found)
    if not direct:
        name, reason = next(((name, reason) for name, reason in why.items() if reason), ("", ""))
        reason = reason or "something stands between the convolution and its batch norm"
        raise NotSupported(
            f"{method} needs convolutions inside a block, each with its batch norm right behind it; found none, e.g. "
            f"{name or found[0].group}: {reason}"
        )
    return direct


def _why_not(model: nn.Module, group: Group, owners: dict[Any, int]) -> str | None:
    """Why a group is left whole; None where its layers are of the right kind."""
    makers = [member for member in group.members if member.side == "out" and member.kind != "norm"]
    norms = [member for member in group.members if member.kind == "norm"]
    if len(makers) != 1:
        return f"{len(makers)} layers make its channels ({', '.join(one.layer for one in makers[:3])})"
    if makers[0].kind != "conv" or not isinstance(conv := model.get_submodule(makers[0].layer), Conv):
        return f"{makers[0].layer} is no convolution"
    if conv.groups > 1:
        return f"{makers[0].layer} is a grouped convolution"
    if len(norms) != 1 or not _is_plain(model.get_submodule(norms[0].layer)):
        return f"it has {len(norms)} norms" if len(norms) != 1 else f"{norms[0].layer} is no batch norm of torch"
    if not all(_in_order(member, group) and owners[member.layer, member.side] == 1 for member in (makers[0], norms[0])):
        return f"the channels of {makers[0].layer} belong to several groups, or several to a unit"
    return None


def _is_plain(norm: nn.Module) -> bool:
    """Whether `norm` is a batch norm with scale, bias and statistics, and does nothing besides (as timm's do)."""
    if not isinstance(norm, _BatchNorm) or type(norm).forward is not _BatchNorm.forward:
        return False
    return norm.affine and norm.running_var is not None


def _in_order(member: Member, group: Group) -> bool:
    order = np.arange(group.size)
    return member.width == group.size and all(np.array_equal(one, order) for one in (member.positions, member.units))


def _internal(model: nn.Module, group: Group) -> Internal:
    maker = next(one for one in group.members if one.side == "out" and one.kind != "norm")
    norm = next(one for one in group.members if one.kind == "norm")
    conv, batch_norm = model.get_submodule(maker.layer), model.get_submodule(norm.layer)
    assert isinstance(conv, Conv)  # `_why_not` has looked
    assert isinstance(batch_norm, _BatchNorm)
    return Internal(group.name, conv, batch_norm)


def _directly(model: nn.Module, example: Tensor, found: Sequence[Internal]) -> tuple[Internal, ...]:
    """Those whose norm reads what the convolution has just put out, once in a forward pass."""
    seen = {one.group: _Seen() for one in found}
    with ExitStack() as stack, torch.no_grad(), eval_mode(model):
        for one in found:
            stack.enter_context(one.conv.register_forward_hook(seen[one.group].made))
            stack.enter_context(one.norm.register_forward_pre_hook(seen[one.group].read))
        model(example[:1])
    return tuple(one for one in found if seen[one.group].calls == [True])


class _Seen:
    """What the hooks of a convolution and its norm have seen in one forward pass."""

    def __init__(self) -> None:
        self.calls: list[bool] = []  # of the norm: whether it read the convolution's output, unchanged
        self._output: tuple[Tensor, int] | None = None

    def made(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Remember the output, unless there was one before."""
        self.calls += [False] * (self._output is not None)
        self._output = output, output._version

    def read(self, module: nn.Module, inputs: Any) -> None:
        """Compare the norm's input with the convolution's output."""
        found = inputs[0]
        same = self._output is not None and found is self._output[0] and found._version == self._output[1]
        self.calls.append(same)
