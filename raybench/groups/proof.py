"""A numeric trial of groups: the cut network must compute what the whole one does with the same channels silenced.

It is made on a copy with random weights in double precision, so that no channel is without effect and no difference
is rounding. Where the two differ, statistics over channels may have seen the silenced ones: then the whole network
is run once more with these gone (`live`).
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups import first_run, surgery
from raybench.groups.attention import plainly
from raybench.groups.cost import params_of
from raybench.groups.first_run import run_once
from raybench.groups.follow import MAX_SECONDS, HowMany, fewer, half, kept_units, run_followed, tensors_of
from raybench.groups.following import Choices, Followed
from raybench.groups.live import Live, gone_of
from raybench.groups.products import counted_macs
from raybench.groups.records import Group, Groups, Member
from raybench.groups.shell import copy_of_shapes, sharing_copy

FAILS = "the network fails"  # how the reason of a group begins without which it doesn't run
CLOSE = 1e-6  # relative to the largest output
SIZES = (64, 96, 128, 160, 192)  # of images, tried in this order
SEVERAL = 16  # samples at a time of networks that take vectors or sequences
MANY = 1_000_003  # random numbers, repeated: a prime, so that no two channels are alike
MOST, FEWEST = 80, 8  # trials; what is undecided then stays whole
BUDGET = 60 * 10**9  # MACs of all trials, not seconds: a busy machine must find the same groups
GIVE_UP = 60 * 10**9  # MACs of trials, after which nothing was right
OVERHEAD = 5 * 10**6  # MACs in the time that running one module takes besides its own
UNTRIED = "the first trials all failed, and more would take too long"
HUGE = 4 * 10**8  # parameters of networks that are tried in single precision
FAILURES = (*first_run.FAILURES, ZeroDivisionError)


def disproved(model: nn.Module, example: Tensor, groups: Groups, choices: Choices | None = None) -> dict[str, str]:
    """Names of the groups without half of whose units the network fails or computes something else, and why.

    All groups are tried at once first; where that fails, kinds of groups (the same names but for numbers) and then
    halves of them. The same network always gives the same answer. `model` isn't changed. `choices`: those by which
    the groups were found.
    """
    trial = _Trial(model, example, groups, choices or Choices())
    kinds: dict[str, list[Group]] = {}
    for group in groups:
        kinds.setdefault(re.sub(r"\d+", "#", group.name), []).append(group)
    wrong: dict[str, str] = {}
    good: list[Group] = []
    if not trial.wrong(list(groups)):
        return {}
    for kind in kinds.values():
        if not good and trial.spent:
            wrong.update((group.name, UNTRIED) for group in kind)
        else:
            good += trial.good_among(kind, wrong)
    left = [list(kind) for kind in kinds.values()]
    while good and left and (why := trial.wrong(good)):  # each alone is right, together they aren't
        for group in left.pop():
            if group in good:
                good.remove(group)
                wrong[group.name] = why
    return wrong


def refuted(model: nn.Module, example: Tensor, groups: Groups) -> str | None:
    """Why the network with fewer units computes something else; empty where it doesn't, None if it can't be tried."""
    trial = _Trial(model, example, groups, Choices())
    if trial.undecided:
        return None
    return trial.failure(list(groups), fewer)


class _Trial:
    """A copy of a network with random weights, and an image; counts its trials."""

    def __init__(self, model: nn.Module, example: Tensor, groups: Groups, choices: Choices) -> None:
        self._groups, self._choices, self._count = groups, choices, 0
        self._followed: Followed | None = None
        draw = torch.Generator().manual_seed(0)
        example = _smaller(model, example[:1])
        for kind in _precisions(model):
            self._model, self._kind = _random(model, kind, draw), kind
            several = SEVERAL if example.dim() < 4 and example.is_floating_point() else 1  # few values leave ReLUs dead
            shape = (several, *example.shape[1:])
            self._image = torch.randn(shape, generator=draw).to(example.device, kind)
            self._image = self._image if example.is_floating_point() else example
            try:
                if several > 1 and not self._takes(self._image):
                    self._image = self._image[:1]
                self.undecided = self._draws_numbers()
                break
            except FAILURES:  # a forward that names its type
                self.undecided = True

    def _takes(self, images: Tensor) -> bool:
        try:
            _outputs(self._model, images)
        except FAILURES:  # made for one image at a time
            return False
        return True

    def _draws_numbers(self) -> bool:
        """Whether the output is random: then nothing can be compared."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            before = torch.get_rng_state()
            whole = _run(self._model, self._image)
            if bool((before == torch.get_rng_state()).all()):
                return False
        return not self._same(whole, _outputs(self._model, self._image, 1))

    @cached_property
    def _shapes(self) -> nn.Module | None:
        return _on_meta(self._model, self._image)

    @cached_property
    def _affordable(self) -> int:
        """Trials after which a network without a right group is given up, so that nobody waits for minutes."""
        runs = len(run_once(self._model, self._image))
        return max(1, GIVE_UP // (counted_macs(self._model, self._image)[0] + runs * OVERHEAD))

    @property
    def spent(self) -> bool:
        """Whether the work that a refusal may take is done."""
        return self._count > self._affordable

    @cached_property
    def _most(self) -> int:
        macs = counted_macs(self._model, self._image)[0]
        return int(min(MOST, max(FEWEST, BUDGET // max(macs, 1))))

    def good_among(self, groups: Sequence[Group], wrong: dict[str, str]) -> list[Group]:
        """Those of `groups` that pass; `wrong` gets the others."""
        why = self.wrong(groups)
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
        few = {g.name: np.arange(rng.integers(g.least, g.size + 1)) for g in groups}
        for units in (kept, few, {g.name: np.arange(g.least) for g in groups}):
            shapes = sharing_copy(self._shapes)
            surgery.apply(shapes, self._groups, units)
            _outputs(shapes, self._image.to("meta"))

    def wrong(self, groups: Sequence[Group]) -> str:
        """As `failure` with half of the units, after a run of the shapes alone."""
        self._count += 1
        try:
            self._run_shapes(groups, kept_units(groups, half, np.random.default_rng(0)))
        except FAILURES as error:
            return _fails(error)
        return self.failure(groups, half)

    def failure(self, groups: Sequence[Group], count: HowMany) -> str:
        """Why the network with `count` units of `groups` isn't the whole one with the others silenced, or nothing."""
        kept = kept_units(groups, count, np.random.default_rng(0))
        slim = sharing_copy(self._model)
        try:
            surgery.apply(slim, self._groups, kept)
            cut = _outputs(slim, self._image)
        except FAILURES as error:
            return _fails(error)
        silent = _silenced(self._model, groups, kept)
        same = self._same(cut, _outputs(silent, self._image)) or self._same(cut, self._live(silent, groups, kept))
        return "" if same else "with fewer channels the network computes something else (a scale, an order of channels)"

    def _same(self, cut: Sequence[Tensor], whole: Sequence[Tensor]) -> bool:
        near = CLOSE if self._kind == torch.float64 else 1e-3
        return len(cut) == len(whole) and all(
            a.shape == b.shape and float((a - b).abs().max()) <= near * max(1e-30, float(b.abs().max()))
            for a, b in zip(cut, whole, strict=True)
            if a.numel() and bool(torch.isfinite(b).all())
        )

    def _live(self, silent: nn.Module, groups: Sequence[Group], kept: Mapping[str, np.ndarray]) -> list[Tensor]:
        """Outputs of the whole network whose statistics over channels don't see the removed ones; none if it fails."""
        deadline = time.thread_time() + MAX_SECONDS
        try:
            if self._followed is None:
                self._followed = Followed(self._model, self._choices, deadline)
                run_followed(self._followed, self._model, self._image)
            gone = gone_of(self._model, self._followed, groups, kept)
            return list(tensors_of(run_followed(Live(silent, self._choices, deadline, gone), silent, self._image)))
        except (*FAILURES, NotSupported):
            return []


def _precisions(model: nn.Module) -> tuple[torch.dtype, ...]:
    """The types to try a network in. Double takes twice the memory, and torch's grouped 3d convolutions crawl in it."""
    huge = params_of(model) > HUGE
    if huge or any(isinstance(m, nn.Conv3d) and m.groups > 1 for m in model.modules()):
        return (torch.float32,)
    return (torch.float64, torch.float32)


def _fails(error: Exception) -> str:
    first_run.raise_if_out_of_memory(error)
    return f"{FAILS} with fewer channels ({(str(error).splitlines() or [''])[0][:120]})"


def _smaller(model: nn.Module, image: Tensor) -> Tensor:
    """A smaller image on which the network runs as well, which saves time; the image itself where there is none."""
    for size in SIZES:
        if image.dim() in (4, 5) and image.is_floating_point() and size < min(image.shape[-2:]):
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
    many = torch.rand(MANY, generator=draw, dtype=torch.float64).to(kind).repeat(2)
    memo = {id(p): _like(p, many, kind, 7919 * i % MANY) for i, p in enumerate(model.parameters())}
    net = copy.deepcopy(model, memo).to(kind)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draw))
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                bias: Any = module.bias
                bias.copy_(0.1 * torch.randn(bias.shape, generator=draw))
    return net


def _like(parameter: nn.Parameter, many: Tensor, kind: torch.dtype, start: int) -> nn.Parameter:
    """A parameter of the same shape, filled with numbers from `many` from `start` on, over and over."""
    size = parameter.numel()
    noise = many[start : start + size] if start + size <= len(many) else many.repeat(-(-size // len(many)))[:size]
    noise = noise.view(parameter.shape).to(parameter.device)
    spread = (3 / max(1, parameter[0].numel())) ** 0.5 if parameter.dim() > 1 else 0.5
    noise = torch.add(-spread if parameter.dim() > 1 else 0.5, noise, alpha=2 * spread)
    return nn.Parameter(noise if parameter.is_floating_point() else noise.to(parameter.dtype), parameter.requires_grad)


def _outputs(model: nn.Module, image: Tensor, seed: int = 0) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _run(model, image)


def _run(model: nn.Module, image: Tensor) -> list[Tensor]:
    with plainly(model), torch.no_grad():
        return list(tensors_of(model(image)))


def _silenced(model: nn.Module, groups: Sequence[Group], kept: Mapping[str, np.ndarray]) -> nn.Module:
    """A copy in which the weights that make the other channels, and those that read them, are zero."""
    silent = sharing_copy(model)
    own: dict[str, Tensor] = {}  # copies of tensors that took the place of those which the networks share

    def owned(name: str) -> Tensor:
        if name not in own:
            own[name] = _own(silent, name)
        return own[name]

    with torch.no_grad():
        for group in groups:
            units = np.setdiff1d(np.arange(group.size), kept[group.name])
            for member in group.members:
                _silence(silent, member, units, owned)
    return silent


def _silence(model: nn.Module, member: Member, units: np.ndarray, owned: Callable[[str], Tensor]) -> None:
    places = torch.from_numpy(member.positions[np.isin(member.units, units)])
    if member.kind == "parameter":
        parameter = owned(member.layer)
        parameter.index_fill_(surgery.axis_of(parameter, member), places.to(parameter.device), 0.0)
        return
    module: Any = model.get_submodule(member.layer)
    if not isinstance(module.weight, Tensor):
        return
    weight, places = owned(f"{member.layer}.weight"), places.to(module.weight.device)
    if member.side == "in" and getattr(module, "groups", 1) > 1:
        weight[:, torch.unique(places % weight.shape[1])] = 0.0
    else:
        first = "in" if getattr(module, "transposed", False) and member.kind != "depthwise" else "out"
        weight.index_fill_(0 if member.side == first or weight.dim() == 1 else 1, places, 0.0)
    if member.side == "out" and isinstance(getattr(module, "bias", None), Tensor):
        owned(f"{member.layer}.bias")[places] = 0.0


def _own(model: nn.Module, name: str) -> Tensor:
    """Replace the tensor `name` of the model by a copy and return it."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    tensor: Tensor = getattr(module, attribute).detach().clone()
    setattr(module, attribute, nn.Parameter(tensor) if attribute in module._parameters else tensor)
    return getattr(module, attribute)
