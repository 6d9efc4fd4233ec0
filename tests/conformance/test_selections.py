"""What the conformance check of trained selections finds, one broken promise at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from raybench.methods.trained_selection import TrainedSelection
from raybench.testing.selections import check_selection


@dataclass
class Plain(TrainedSelection):
    """Keeps every promise."""

    def attach(self, model, budget):
        self.model, self.budget, self.steps = model, budget, 0

    def add_gradients(self):
        self.steps += 1

    def kept(self):
        return self.budget.choose({group.name: np.arange(group.size) for group in self.budget.groups})

    def state_dict(self):
        return {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state):
        self.steps = int(state["steps"])


class Louder(Plain):
    def attach(self, model, budget):
        super().attach(model, budget)
        model.fc.weight.data.mul_(2)


class Strange(Plain):
    def own_parameters(self):
        return (torch.nn.Parameter(torch.zeros(2)),)


class Infinite(Plain):
    def add_gradients(self):
        self.model.stem.weight.grad.mul_(float("nan"))


class Forgetful(Plain):
    """What it keeps depends on its number of steps, which it doesn't save."""

    def kept(self):
        scores = {group.name: np.roll(np.arange(group.size), self.steps) for group in self.budget.groups}
        return self.budget.choose(scores)

    def load_state_dict(self, state):
        pass


class Drifting(Plain):
    """What it trains depends on its number of steps, which it doesn't save."""

    def add_gradients(self):
        super().add_gradients()
        self.model.stem.weight.grad.mul_(self.steps)

    def load_state_dict(self, state):
        pass


class Greedy(Plain):
    def kept(self):
        return {group.name: np.arange(group.size) for group in self.budget.groups}


class Nothing(Plain):
    def kept(self):
        return {}


class Misnamed(Plain):
    def kept(self):
        return {"stomach": np.arange(3)}


class Unsorted(Plain):
    def kept(self):
        return {name: units[::-1] for name, units in super().kept().items()}


class Beyond(Plain):
    def kept(self):
        return {name: [*units, 99] for name, units in super().kept().items()}


class Leftover(Plain):
    def attach(self, model, budget):
        super().attach(model, budget)
        model.register_buffer("mine", torch.zeros(1))


class Hooked(Plain):
    def attach(self, model, budget):
        super().attach(model, budget)
        model.bn1.register_forward_hook(lambda module, inputs, output: output * 1)


class Frozen(Plain):
    def attach(self, model, budget):
        super().attach(model, budget)
        model.conv.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Louder, "attached, the network computes something else"),
        (Strange, "own_parameters names tensors that are no parameters of the network"),
        (Infinite, "the gradient of stem.weight is NaN or infinite"),
        (Forgetful, "an interrupted training keeps other units"),
        (Drifting, "an interrupted training gives other weights"),
        (Greedy, "the kept units make a speed-up of 1.000 where 1.5 was asked"),
        (Nothing, r"kept\(\) names no group"),
        (Misnamed, "kept.. names 'stomach'; the groups are stem, conv"),
        (Unsorted, "expected ascending units from 0 to 7, at least one"),
        (Beyond, "expected ascending units from 0 to 7, at least one"),
        (Leftover, r"fold leaves other parameters or buffers: \['mine'\]"),
        (Hooked, "fold leaves hooks on bn1"),
        (Frozen, "fold leaves parameters that can't be trained: conv.weight"),
    ],
)
def test_a_broken_promise_is_found(kind, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_selection(kind())


def test_the_plain_one_conforms():
    check_selection(Plain())


@pytest.mark.parametrize("name", ["attach", "add_gradients", "kept"])
def test_what_must_be_defined(name):
    one = TrainedSelection()
    with pytest.raises(NotImplementedError, match=rf"TrainedSelection must define {name}\("):
        getattr(one, name)(*([None, None] if name == "attach" else []))
    with pytest.raises(TypeError, match="call attach"):
        one.bind(None, None)
    assert (one.own_parameters(), one.own_settings(), one.fold(), one.observe(None, None)) == ((), {}, None, None)
