"""A numeric trial of groups: the cut network must compute what the whole one does with the same channels silenced.

It is made on a copy with random weights in double precision, so that no channel is without effect and no difference
is rounding. Norms over channels count silenced channels in their statistics; here they pass their input on.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from raybench.groups import surgery
from raybench.groups.attention import plainly
from raybench.groups.follow import half, kept_units, tensors_of
from raybench.groups.layer_types import NORMS
from raybench.groups.products import counted
from raybench.groups.records import Group, Groups, Member
from raybench.groups.shell import copy_of_shapes

FAILS = "the network fails"  # how the reason of a group begins without which it doesn't run
CLOSE = 1e-6  # relative to the largest output
SIZES = (64, 96, 128, 160, 192)  # of images, tried in this order
MOST, FEWEST = 80, 8  # trials; what is undecided then stays whole
BUDGET = 60 * 10**9  # MACs of all trials, not seconds: a busy machine must find the same groups
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, ZeroDivisionError)


def disproved(model: nn.Module, example: Tensor, groups: Groups) -> dict[str, str]:
    """Names of the groups without half of whose units the network fails or computes something else, and why.

    All groups are tried at once first; where that fails, kinds of groups (the same names but for numbers) and then
    halves of them. The same network always gives the same answer. `model` isn't changed.
    """
    trial = _Trial(model, example, groups)
    kinds: dict[str, list[Group]] = {}
    for group in groups:
        kinds.setdefault(re.sub(r"\d+", "#", group.name), []).append(group)
    wrong: dict[str, str] = {}
    good: list[Group] = []
    if not trial.failure(list(groups)):
        return {}
    for kind in kinds.values():
        good += trial.good_among(kind, wrong)
    left = [list(kind) for kind in kinds.values()]
    while good and left and (why := trial.failure(good)):  # each alone is right, together they aren't
        for group in left.pop():
            if group in good:
                good.remove(group)
                wrong[group.name] = why
    return wrong


class _Trial:
    """A copy of a network with random weights, and an image; counts its trials."""

    def __init__(self, model: nn.Module, example: Tensor, groups: Groups) -> None:
        self._groups, self._count = groups, 0
        draw = torch.Generator().manual_seed(0)
        example = _smaller(model, example[:1])
        for kind in (torch.float64, torch.float32):
            self._model, self._kind = _random(model, kind, draw), kind
            self._image = torch.randn(example.shape, generator=draw).to(example.device, kind)
            self._image = self._image if example.is_floating_point() else example
            try:
                _outputs(self._model, self._image)
                break
            except FAILURES:  # a forward that names its type
                continue
        self._shapes = _on_meta(self._model, self._image)
        macs = counted(self._model, self._image)[0]
        self._most = int(min(MOST, max(FEWEST, BUDGET // max(macs, 1))))

    def good_among(self, groups: Sequence[Group], wrong: dict[str, str]) -> list[Group]:
        """Those of `groups` that pass; `wrong` gets the others."""
        why = self.failure(groups)
        if not why:
            return list(groups)
        if len(groups) == 1 or self._count >= self._most:
            wrong.update((group.name, why) for group in groups)
            return []
        middle = len(groups) // 2
        return self.good_among(groups[:middle], wrong) + self.good_among(groups[middle:], wrong)

    def _run_shapes(self, groups: Sequence[Group], kept: Mapping[str, np.ndarray]) -> None:
        """Run the shapes alone, which is quick: with the `kept` units, with any number of them, and with the fewest."""
        if self._shapes is None:
            return
        rng = np.random.default_rng(1)
        some = {g.name: np.arange(rng.integers(g.least, g.size + 1)) for g in groups}
        for units in (kept, some, {g.name: np.arange(g.least) for g in groups}):
            shapes = copy.deepcopy(self._shapes)
            surgery.apply(shapes, self._groups, units)
            _outputs(shapes, self._image.to("meta"))

    def failure(self, groups: Sequence[Group]) -> str:
        """Why the network without half of the units of `groups` isn't the whole one with these silenced, or nothing."""
        self._count += 1
        kept = kept_units(groups, half, np.random.default_rng(0))
        slim = copy.deepcopy(self._model)
        try:
            self._run_shapes(groups, kept)
            surgery.apply(slim, self._groups, kept)
            cut = _outputs(slim, self._image)
        except FAILURES as error:
            return f"{FAILS} with fewer channels ({(str(error).splitlines() or [''])[0][:120]})"
        silent = copy.deepcopy(self._model)
        for group in groups:
            units = np.setdiff1d(np.arange(group.size), kept[group.name])
            for member in group.members:
                _silence(silent, member, units)
        masked = _outputs(silent, self._image)
        near = CLOSE if self._kind == torch.float64 else 1e-3
        same = len(cut) == len(masked) and all(
            a.shape == b.shape and float((a - b).abs().max()) <= near * max(1e-30, float(b.abs().max()))
            for a, b in zip(cut, masked, strict=True)
            if a.numel() and bool(torch.isfinite(b).all())
        )
        return "" if same else "with fewer channels the network computes something else (a mean over channels, a scale)"


def _smaller(model: nn.Module, image: Tensor) -> Tensor:
    """A smaller image on which the network runs as well, which saves time; the image itself where there is none."""
    for size in SIZES:
        if image.dim() == 4 and image.is_floating_point() and size < min(image.shape[-2:]):
            small = image[..., :size, :size].contiguous()
            try:
                _outputs(model, small)
            except FAILURES:
                continue
            return small
    return image


def _on_meta(model: nn.Module, image: Tensor) -> nn.Module | None:
    """A copy of shapes without values; None where the forward needs values."""
    shapes = copy_of_shapes(model)
    try:
        _outputs(shapes, image.to("meta"))
    except Exception:  # a forward pass that needs values may raise anything
        return None
    return shapes


def _random(model: nn.Module, kind: torch.dtype, draw: torch.Generator) -> nn.Module:
    """A copy with random weights of about the usual size."""
    net = copy.deepcopy(model).to(kind)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.rand(parameter.shape, generator=draw, dtype=torch.float64)
            if parameter.dim() > 1:
                spread = (3 / max(1, parameter[0].numel())) ** 0.5
                parameter.copy_((2 * noise - 1) * spread)
            else:
                parameter.copy_(0.5 + noise)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draw))
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                bias: Any = module.bias
                bias.copy_(0.1 * torch.randn(bias.shape, generator=draw))
    return net


class _WithoutStatistics(TorchDispatchMode):
    """Inside, norms over channels return their input."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name.partition("::")[2] in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
            return (args[0].clone(), *out[1:])
        return out


def _outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    with plainly(model), torch.no_grad(), _norms_pass(model), _WithoutStatistics():
        return list(tensors_of(model(image)))


@contextmanager
def _norms_pass(model: nn.Module) -> Iterator[None]:
    """Inside, norms that aren't torch's own return their input."""
    changed: list[Any] = []
    for module in model.modules():
        if "norm" in type(module).__name__.lower() and not isinstance(module, NORMS) and not any(module.children()):
            own: Any = module
            if "batch" not in type(module).__name__.lower():
                changed.append((own, own.__dict__.get("forward")))
                own.forward = lambda x, *_, **__: x
    try:
        yield
    finally:
        for module, forward in changed:
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _silence(model: nn.Module, member: Member, units: np.ndarray) -> None:
    """Zero the weights that make the channels of some units and those that read them."""
    places = torch.from_numpy(member.positions[np.isin(member.units, units)])
    with torch.no_grad():
        if member.kind == "parameter":
            parameter = model.get_parameter(member.layer)
            parameter.index_fill_(surgery.axis_of(parameter, member), places.to(parameter.device), 0.0)
            return
        module: Any = model.get_submodule(member.layer)
        weight = module.weight
        if not isinstance(weight, Tensor):
            return
        places = places.to(weight.device)
        if member.side == "in" and getattr(module, "groups", 1) > 1:
            weight[:, torch.unique(places % weight.shape[1])] = 0.0
        else:
            first = "in" if getattr(module, "transposed", False) else "out"
            weight.index_fill_(0 if member.side == first or weight.dim() == 1 else 1, places, 0.0)
        if member.side == "out" and isinstance(module.bias, Tensor):
            module.bias[places] = 0.0
