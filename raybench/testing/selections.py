"""The conformance check of trained selections: a short training of the sample network, once interrupted."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.groups import surgery
from raybench.groups.records import Groups
from raybench.methods.protocols import Calibration
from raybench.methods.trained_selection import Kept, TrainedSelection
from raybench.selection.trained import budget_of, learnt_cut
from raybench.testing.samples import sample

SPEEDUP, EPOCHS, HALT = 1.5, 6, 3  # epochs of three batches; it is interrupted after HALT
CLOSE = 1e-5  # between outputs, relative to the largest


def check_selection(selection: TrainedSelection) -> None:
    """Check a trained selection on a residual network of convolutions, which it trains for a few steps.

    In eval mode the network computes the same when the selection is attached, and again when it is folded; gradients
    are finite; an interrupted training gives the same numbers; the kept units meet the speed-up as exactly as units
    allow; nothing of it stays in the network.
    """
    fresh = copy.deepcopy(selection)  # one object serves one training
    net, groups, calibration = sample()
    before = {name: value.shape for name, value in net.state_dict().items()}
    _attach(selection, net, groups, calibration)
    state = _train(selection, net, calibration, 0, EPOCHS)
    other, _, _ = sample()
    _attach(fresh, other, groups, calibration)
    other.load_state_dict(state["model"])
    fresh.load_state_dict(state["selection"])
    _train(fresh, other, calibration, HALT, EPOCHS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few steps don't train what the method promises
        kept, again = selection.kept(), fresh.kept()
    _check_kept(kept, groups, net, calibration)
    same = kept.keys() == again.keys() and all(np.array_equal(kept[name], again[name]) for name in kept)
    assert same, "an interrupted training keeps other units: what changes must be in the network or in state_dict"
    for one, trained in ((selection, net), (fresh, other)):
        one.fold()
        found = {name: value.shape for name, value in trained.state_dict().items()}
        assert found == before, f"fold leaves other parameters or buffers: {sorted(set(found) ^ set(before))[:5]}"
        hooks = [name for name, module in trained.named_modules() if module._forward_hooks or module._forward_pre_hooks]
        assert not hooks, f"fold leaves hooks on {', '.join(hooks)}"
        frozen = [name for name, parameter in trained.named_parameters() if not parameter.requires_grad]
        assert not frozen, f"fold leaves parameters that can't be trained: {', '.join(frozen[:5])}"
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    ), "an interrupted training gives other weights: what changes must be in the network or in state_dict"
    surgery.apply(net, groups, {name: np.asarray(units) for name, units in kept.items()})
    assert bool(net.eval()(calibration.images).isfinite().all()), "the cut network's outputs are NaN or infinite"


def _attach(selection: TrainedSelection, net: nn.Module, groups: Groups, calibration: Calibration) -> None:
    net.eval()
    wanted = net(calibration.images)
    example = torch.zeros_like(calibration.images[:1])
    budget = budget_of(net, example, groups, SPEEDUP, strategy="protected-global", round_to=1, seed=0)
    selection.attach(net, budget)
    gap = (net.eval()(calibration.images) - wanted).abs().max()
    assert gap <= CLOSE * wanted.abs().max(), f"attached, the network computes something else (gap {gap:.2g})"
    strange = set(map(id, selection.own_parameters())) - set(map(id, net.parameters()))
    assert not strange, "own_parameters names tensors that are no parameters of the network"


def _train(
    selection: TrainedSelection, net: nn.Module, calibration: Calibration, first: int, last: int
) -> dict[str, Any]:
    """Train for epochs `first` to `last`; returns the state after HALT of them."""
    state: dict[str, Any] = {}
    for epoch in range(first, last):
        net.train()
        for images, labels in zip(calibration.images.split(4), calibration.labels.split(4), strict=True):
            _step(selection, net, images, labels)
        selection.end_epoch()
        if epoch + 1 == HALT:
            own = {name: value.clone() for name, value in selection.state_dict().items()}
            state = {"model": {name: value.clone() for name, value in net.state_dict().items()}, "selection": own}
    return state


def _step(selection: TrainedSelection, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One step of plain SGD, which has no state."""
    outputs = net(images)
    net.zero_grad()
    F.cross_entropy(outputs, labels).backward()
    selection.observe(outputs.detach(), labels)
    selection.add_gradients()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:
                assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is NaN or infinite"
                parameter.sub_(parameter.grad, alpha=0.01)


def _check_kept(kept: Kept, groups: Groups, net: nn.Module, calibration: Calibration) -> None:
    sizes = {group.name: group.size for group in groups}
    assert kept, "kept() names no group: nothing can be cut"
    for name, units in kept.items():
        assert name in sizes, f"kept() names {name!r}; the groups are {', '.join(sizes)}"
        array = np.asarray(units)
        fits = array.ndim == 1 and len(array) and array.min() >= 0 and array.max() < sizes[name]
        fits = fits and bool((np.diff(array) > 0).all())
        assert fits, (
            f"kept()[{name!r}] is {units!r}; expected ascending units from 0 to {sizes[name] - 1}, at least one"
        )
    plain, _, _ = sample()
    example = torch.zeros_like(calibration.images[:1])
    cut = learnt_cut(plain, example, groups, kept, SPEEDUP, strategy="protected-global", round_to=1)
    reason = cut.reason or ""
    assert not reason.startswith("selection"), (
        f"the kept units make a speed-up of {cut.speedup:.3f} where {SPEEDUP:g} was asked and units allow it"
    )
