"""Gates: one number in [0, 1] for each unit, multiplied with its channels wherever a layer reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import weight_norm

from raybench.errors import NotSupported
from raybench.groups.records import Group, Groups, Member

PARTS = ("channels", "mlp")  # of groups whose units vanish where their channels are zero for all readers
INPUTS, HIDDEN = 64, 128  # of the hypernetwork's GRU


class Gates(nn.Module):
    """Logits of every unit of some groups, and the gates that follow from them in each forward pass.

    In training a gate is sigmoid((logit + offset + Gumbel noise) / temperature), in eval mode 0 or 1 by the sign of
    logit + offset. `flat` holds those of the last forward pass, all groups one after another, and a 1 at the end.
    """

    def __init__(
        self, sizes: list[int], kind: Literal["logits", "hypernet"], temperature: float, offset: float
    ) -> None:
        super().__init__()
        self.sizes, self.temperature, self.offset = sizes, temperature, offset
        made: nn.Module = Logits(sizes, -offset / 2) if kind == "logits" else Hypernet(sizes)
        self.source = made
        self.flat = torch.ones(sum(sizes) + 1)

    def logits(self) -> Tensor:
        """(units,)."""
        found: Tensor = self.source()
        return found

    def draw(self, seed: int) -> None:
        """New gates for a training step, with noise of `seed`."""
        logits = self.logits()
        uniform = torch.rand(len(logits), generator=torch.Generator().manual_seed(seed)).clamp(1e-20, 1 - 1e-7)
        noise = -(-uniform.log()).log()
        soft = torch.sigmoid((logits + noise.to(logits) + self.offset) / self.temperature)
        self.flat = torch.cat([soft, soft.new_ones(1)])

    def decide(self) -> None:
        """The gates of eval mode."""
        logits = self.logits().detach()
        hard = (logits + self.offset >= 0).to(logits)
        self.flat = torch.cat([hard, hard.new_ones(1)])

    @property
    def soft(self) -> Tensor:
        """(units,) those of the last forward pass."""
        return self.flat[:-1]


class Logits(nn.Module):
    """One trained number for each unit, normally distributed at first, but above `least`: no gate starts closed."""

    def __init__(self, sizes: list[int], least: float) -> None:
        super().__init__()
        self.weight = nn.ParameterList(nn.Parameter(torch.randn(size).clamp(min=least)) for size in sizes)

    def forward(self) -> Tensor:
        """(units,)."""
        return torch.cat(list(self.weight))


class Hypernet(nn.Module):
    """Fixed orthogonal inputs, one a group -> bidirectional GRU -> layer norm, ReLU -> a linear layer per group."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.register_buffer("inputs", nn.init.orthogonal_(torch.empty(len(sizes), INPUTS)))
        self.gru, self.norm = nn.GRU(INPUTS, HIDDEN, bidirectional=True), nn.LayerNorm(2 * HIDDEN)
        self.heads = nn.ModuleList(weight_norm(nn.Linear(2 * HIDDEN, size, bias=False)) for size in sizes)

    inputs: Tensor

    def forward(self) -> Tensor:
        """(units,)."""
        states = F.relu(self.norm(self.gru(self.inputs)[0]))
        return torch.cat([head(state) for head, state in zip(self.heads, states, strict=True)])


def gateable(model: nn.Module, groups: Groups, method: str) -> tuple[Group, ...]:
    """The groups whose units can be switched off by zeros where their channels are read.

    Left whole: attention heads and widths, and channels that a norm over channels mixes.

    Raises:
        NotSupported: there is none; says why for one group.
    """
    why = {group.name: _why_not(model, group) for group in groups}
    if not (found := tuple(group for group in groups if why[group.name] is None)):
        name, reason = next(iter(why.items()))
        raise NotSupported(f"{method} needs channels that vanish at zero; found none, e.g. {name}: {reason}")
    return found


def _why_not(model: nn.Module, group: Group) -> str | None:
    if group.part not in PARTS:
        return f"its units are {group.part}"
    for member in group.members:
        if member.kind == "norm" and not isinstance(model.get_submodule(member.layer), _BatchNorm):
            return f"{member.layer} is a norm over channels"
        if member.kind in ("parameter", "embedding"):
            return f"{member.layer} is added to its channels"
    return None if any(_reads(member) for member in group.members) else "no layer reads it"


def _reads(member: Member) -> bool:
    return member.side == "in" and member.kind in ("conv", "linear")


def hang(model: nn.Module, gates: Gates, groups: tuple[Group, ...]) -> list[Any]:
    """Multiply the inputs of every layer that reads a unit by its gate; returns the hooks' handles."""
    device = next(model.parameters()).device
    starts = dict(zip((group.name for group in groups), _starts(gates.sizes), strict=True))
    index: dict[str, Tensor] = {}
    for group in groups:
        for member in filter(_reads, group.members):
            places = index.setdefault(member.layer, torch.full((member.width,), sum(gates.sizes), device=device))
            places[torch.from_numpy(member.positions).to(device)] = (
                torch.from_numpy(member.units).to(device) + starts[group.name]
            )
    return [
        model.get_submodule(layer).register_forward_pre_hook(partial(_multiplied, gates, places))
        for layer, places in index.items()
    ]


def _starts(sizes: list[int]) -> Iterator[int]:
    start = 0
    for size in sizes:
        yield start
        start += size


def _multiplied(gates: Gates, places: Tensor, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A pre-hook: the layer's input, times the gates of its channels."""
    values = gates.flat[places].to(inputs[0].dtype)
    if not isinstance(layer, nn.Linear):
        values = values.view(-1, *[1] * (inputs[0].dim() - 2))
    return (inputs[0] * values, *inputs[1:])


@contextmanager
def made_by(seed: int) -> Iterator[None]:
    """Context in which modules are made with initial weights of `seed`; torch's generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
