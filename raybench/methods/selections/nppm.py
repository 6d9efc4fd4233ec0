"""nppm: gates on the channels of a frozen network, trained towards accuracy that a second network predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from raybench.methods.episodes import Memory, Predictor
from raybench.methods.gates import Gates, gateable, hang, made_by
from raybench.methods.trained_selection import Budget, Kept, TrainedSelection
from raybench.registry import selection

ADDED = "nppm"  # name of what is added to the network
LATE = 0.8  # share of the epochs after which the gates' rate falls to a tenth


class Added(nn.Module):
    """What is added to the network: the gates, the memory, the predictor."""

    def __init__(self, gates: Gates, memory: Memory, predictor: Predictor) -> None:
        super().__init__()
        self.gates, self.memory, self.predictor = gates, memory, predictor


@selection("nppm", limits={"strength": (0, None), "lr": (0, None), "noise": (0, None), "temperature": (0.01, None),
                           "memory": (1, None), "average": (1, None), "batch": (1, None)})  # fmt: skip
@dataclass
class NPPM(TrainedSelection):
    """Gates z = Gumbel-sigmoid(theta) minimise CE(z) + strength * R(MACs(z), p) + log(1 / prediction(z)).

    Gao et al., section 3: the objective of the gates, with the performance that a network predicts.

    p is 1 / speed-up, R = log(max(MACs / base, p) / p) with the gates rounded to 0 and 1. `prediction` is trained on an
    episodic memory of (rounded gates, accuracy of the batch) with an L1 loss; of its gradient, each group's part along
    the gradient of CE is dropped. It takes part as soon as the memory holds `batch` pairs. Gates see some `noise`
    before it. The network itself is frozen and in eval mode; the units with the highest theta are kept.

    AdamW trains theta (rate `lr`, a tenth of it after 80 % of the epochs, decay 0.01) and the predictor (0.001),
    whatever the recipe's optimizer is. `gates: hypernet` makes theta by a GRU over the groups instead.
    """

    strength: float = 2.0
    gates: Literal["logits", "hypernet"] = "logits"
    lr: float = 0.05
    temperature: float = 0.4
    offset: float = 3.0  # added to theta: at first nearly all gates are open
    noise: float = 1.0
    memory: int = 500
    average: int = 2  # steps whose mean is one pair of the memory
    batch: int = 64
    _steps: int = field(default=0, init=False, repr=False)
    _epochs: int = field(default=0, init=False, repr=False)

    task = "classification"
    alone = True
    paper = "Gao et al., Network pruning via performance maximization, CVPR 2021"

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Freeze the network and hang gates on it. NotSupported where no channel vanishes at zero."""
        self._model, self._budget, self._groups = model, budget, gateable(model, budget.groups, "nppm")
        sizes, device = [group.size for group in self._groups], next(model.parameters()).device
        with made_by(budget.seed):
            added = Added(
                Gates(sizes, self.gates, self.temperature, self.offset),
                Memory(sum(sizes), self.memory, self.average),
                Predictor(sizes),
            )
        self._frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._added = added.to(device)
        model.add_module(ADDED, self._added)
        self._own = torch.optim.AdamW(self._added.gates.parameters(), lr=self.lr, weight_decay=1e-2)
        self._other = torch.optim.AdamW(self._added.predictor.parameters(), lr=1e-3, weight_decay=1e-3)
        hooks = hang(model, self._added.gates, self._groups)
        self._hooks = [model.register_forward_pre_hook(self._before_forward), *hooks]
        self._index = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device)  # unit -> its group here
        self._places = [budget.groups.groups.index(group) for group in self._groups]

    def _before_forward(self, model: nn.Module, inputs: Any) -> None:
        """Draw new gates in training, decide them otherwise; all that was there before stays in eval mode."""
        if model.training:
            for child in model.children():
                if child is not self._added:
                    child.eval()
            self._added.gates.draw(self._seed())
        else:
            self._added.gates.decide()

    def _seed(self) -> int:
        return (self._budget.seed * 1_000_003 + self._steps) % 2**63

    def observe(self, outputs: Tensor, labels: Tensor) -> None:
        """Remember the gates of this step, rounded, with the accuracy of the batch."""
        accuracy = (outputs.argmax(1) == labels).float().mean()
        self._added.memory.add(self._rounded(), accuracy)

    def _rounded(self) -> Tensor:
        soft = self._added.gates.soft.detach()
        return (soft >= 0.5).to(soft)

    def add_gradients(self) -> None:
        """One step of the gates, and one of the predictor; nothing is left for the recipe's optimizer."""
        theta = list(self._added.gates.parameters())
        loss = [torch.zeros_like(one) if one.grad is None else one.grad for one in theta]
        soft = self._redrawn()
        cost = self._derivatives(theta, soft @ self._cost_slopes() * self.strength)
        predicted = [torch.zeros_like(one) for one in theta]
        if ready := len(self._added.memory) >= self.batch:
            predicted = self._derivatives(theta, -self._prediction(soft).log())
        for one, *parts in zip(theta, loss, cost, predicted, strict=True):
            one.grad = combined(*parts)
        for group in self._own.param_groups:
            late = self._budget.epochs and self._epochs >= int(LATE * self._budget.epochs)
            group["lr"] = self.lr * (0.1 if late else 1.0)
        self._own.step()
        if ready:
            self._learn()
        for one in theta:
            one.grad = None
        self._steps += 1

    def _redrawn(self) -> Tensor:
        """The gates of this step once more, for derivatives: the loss's graph is gone."""
        self._added.gates.draw(self._seed())
        return self._added.gates.soft

    def _derivatives(self, theta: list[nn.Parameter], value: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(value, theta, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(one) if part is None else part for one, part in zip(theta, found, strict=True)]

    def _cost_slopes(self) -> Tensor:
        """(units,) dR / dz at the rounded gates: 1 / MACs * dMACs / dz above the goal, 0 below."""
        rounded = self._rounded()
        counts = self._budget.sizes.astype(float)
        each = rounded.new_zeros(len(self._groups)).index_add_(0, self._index, rounded)
        counts[self._places] = each.cpu().numpy()
        macs = float(self._budget.macs(counts))
        slopes = self._budget.slopes(counts)[self._places] / macs if macs > self._budget.goal else np.zeros(len(each))
        return torch.from_numpy(slopes).to(rounded)[self._index]

    def _prediction(self, soft: Tensor) -> Tensor:
        """Predicted accuracy of the gates with noise, a scalar."""
        draw = torch.randn(len(soft), generator=torch.Generator().manual_seed(self._seed() ^ 1)).to(soft)
        return self._added.predictor((soft + self.noise * draw).clamp(0, 1)[None])[0]

    def _learn(self) -> None:
        """One step of the predictor on a batch of the memory."""
        gates, accuracies = self._added.memory.batch(self.batch, torch.Generator().manual_seed(self._seed() ^ 2))
        self._other.zero_grad()
        with torch.enable_grad():
            (self._added.predictor(gates) - accuracies).abs().mean().backward()
        self._other.step()
        self._other.zero_grad()

    def end_epoch(self) -> None:
        """Count it."""
        self._epochs += 1

    def kept(self) -> Kept:
        """The units with the highest logits, such that the speed-up is met."""
        logits = self._added.gates.logits().detach().double().cpu().split(self._added.gates.sizes)
        return self._budget.choose({group.name: one.numpy() for group, one in zip(self._groups, logits, strict=True)})

    def fold(self) -> None:
        """Take the gates off; the network is as it was."""
        for hook in self._hooks:
            hook.remove()
        delattr(self._model, ADDED)
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Counters, and the state of both optimizers; gates, memory and predictor are part of the network."""
        found = {"counters": torch.tensor([self._steps, self._epochs])}
        for name, optimizer in self._optimizers():
            for place, parameter in enumerate(optimizer.param_groups[0]["params"]):
                found |= {f"{name}.{place}.{key}": value for key, value in optimizer.state[parameter].items()}
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        self._steps, self._epochs = (int(value) for value in state["counters"])
        for name, optimizer in self._optimizers():
            for place, parameter in enumerate(optimizer.param_groups[0]["params"]):
                start = f"{name}.{place}."
                found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
                if found:
                    optimizer.state[parameter] = {
                        key: value.clone().cpu() if key == "step" else value.clone().to(parameter)
                        for key, value in found.items()
                    }

    def _optimizers(self) -> Iterable[tuple[str, torch.optim.Optimizer]]:
        return (("gates", self._own), ("predictor", self._other))


def combined(loss: Tensor, cost: Tensor, predicted: Tensor) -> Tensor:
    """loss + cost + what of `predicted` is orthogonal to `loss`: (l . p) / (l . l) l is dropped."""
    square = (loss * loss).sum()
    along = (loss * predicted).sum() / square if float(square) else square
    return loss + cost + predicted - along * loss
