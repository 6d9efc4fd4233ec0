"""Checks that a method keeps its contract. Authors run `python -m raybench.testing.conformance FILE`.

FILE is a plug-in, a Python file with registered criteria, trained selections, token reducers or regularizers. Each
check raises AssertionError with a sentence that says what was found and what was expected.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench import registry
from raybench.errors import NotSupported, RaybenchError, UserError
from raybench.groups.records import Group, Groups, Member
from raybench.methods.layers import Evidence, arrangement, view, weight_of
from raybench.methods.protocols import Calibration, Importance, RefitProblem, Regularizer
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer
from raybench.testing.samples import sample, tokens
from raybench.testing.selections import check_selection
from raybench.testing.token_conformance import check_token

TOLERANCE = 1e-3  # between scores, relative to the largest: float32 sums in another order


def check_importance(criterion: Importance) -> None:
    """Check shapes, signs, finiteness, determinism, permutation equivariance, and that the model isn't changed.

    Networks are a residual one of convolutions, and one of tokens with layer norms and a depthwise convolution. The
    second is left out for a criterion that raises NotSupported there, or requires batch norms.
    """
    _check_frozen(criterion)
    scored = _check_network(criterion, *sample())
    assert scored, "no layer of any group is scored: layer_scores always returned None"
    if criterion.requires is None:
        with contextlib.suppress(NotSupported):
            _check_network(criterion, *tokens())
    if criterion.reconstructs:
        _check_refit(criterion)


def _check_network(criterion: Importance, net: nn.Module, groups: Groups, calibration: Calibration) -> bool:
    """Check everything but the refit on one network; returns whether any group is scored."""
    net.train()
    before = _state(net)
    evidence = gather(criterion, net, groups, calibration)
    for group in groups:
        for member in group.members:
            _check_scores(criterion, net, member, evidence)
    scores = Scorer(criterion, net, groups, evidence).scores()
    assert _same(before, _state(net)), "scoring changed the model (weights, buffers, .grad or train flags)"
    torch.rand(3)  # scores must not depend on torch's global generator
    again = Scorer(criterion, net, groups, gather(criterion, net, groups, calibration)).scores()
    assert all(np.array_equal(a, b) for a, b in _pairs(scores, again)), "scoring twice gave different scores"
    if criterion.needs != "nothing":
        _check_equivariance(criterion, net, groups, calibration, scores)
    return any(s is not None for s in scores)


def _check_frozen(criterion: Importance) -> None:
    made = getattr(type(criterion), "__dataclass_params__", None)
    name = type(criterion).__name__
    assert made is None or made.frozen, f"{name} can be changed while it scores; write @dataclass(frozen=True) above it"


def check_regularizer(regularizer: Regularizer) -> None:
    """Check finite gradients, that add_gradients changes no weight, and that the state survives a load."""
    net, groups, _ = sample()
    regularizer.bind(net, groups)
    weights = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    regularizer.add_gradients()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients), "a gradient is NaN or infinite"
    assert any(bool(g.any()) for g in gradients), "add_gradients changed no gradient"
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights, strict=True)), (
        "add_gradients changed weights"
    )
    regularizer.end_epoch()
    state = {name: value.clone() for name, value in regularizer.state_dict().items()}
    regularizer.load_state_dict(state)
    assert all(torch.equal(state[n], v) for n, v in regularizer.state_dict().items()), (
        "state_dict doesn't survive a load"
    )


def check_file(path: Path) -> list[str]:
    """Check every method that the plug-in `path` defines, with its default parameters.

    Args:
        path: a Python file with registered criteria, trained selections, token reducers or regularizers.

    Returns:
        Kind and name of each method, such as "criterion capped".

    Raises:
        AssertionError: a method breaks its contract.
        UserError: the file can't be read as a plug-in.
    """
    checked = []
    checks: tuple[tuple[registry.Registry, Callable[[Any], None]], ...] = (
        (registry.importance, check_importance),
        (registry.selection, check_selection),
        (registry.regularizer, check_regularizer),
        (registry.token, check_token),
    )
    for kind, check in checks:
        kind.add_file(path)
        for entry in kind.entries().values():
            if Path(entry.file).resolve() == path.resolve():
                check(kind.load(entry.name)())
                checked.append(f"{entry.noun} {entry.name}")
    if not checked:
        raise UserError(
            f"{path}: nothing is registered in it; expected a class below @importance(...), @selection(...), "
            "@regularizer(...) or @token(...)"
        )
    return checked


def main(arguments: list[str]) -> int:
    """Check one file; 0 when every method conforms, 1 when one doesn't, 2 when the file can't be checked."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: python -m raybench.testing.conformance FILE")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        for name in check_file(Path(arguments[0])):
            print(f"{name}: conforms")
    except RaybenchError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return error.exit_code
    except AssertionError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # the author's code may raise anything; the author reads it here
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}: {last.line}"
        print(f"conformance: {type(error).__name__}: {error}\n  in {where}", file=sys.stderr)
        return 1
    return 0


def _check_scores(criterion: Importance, net: nn.Module, member: Member, evidence: Evidence) -> None:
    found = criterion.layer_scores(view(net, member, evidence=evidence))
    if found is None:
        return
    where = f"layer_scores of {member.layer} ({member.kind}, {member.side} side)"
    assert isinstance(found, Tensor), f"{where} returned {type(found).__name__}, not a tensor or None"
    assert tuple(found.shape) == (member.width,), f"{where} has shape {tuple(found.shape)}, not ({member.width},)"
    assert bool(found.isfinite().all()), f"{where} has NaN or infinite values"
    assert bool((found >= 0).all()), f"{where} has negative values"


def _check_refit(criterion: Importance) -> None:
    """Check the parameters, and `refit` on two convolution groups, 30 points, 3 channels, 4 taps, 5 outputs."""
    points, switch = getattr(criterion, "points", None), getattr(criterion, "reconstruct", None)
    counts = isinstance(points, int) and points > 0
    assert counts, f"a criterion that reconstructs needs a parameter `points` an image, above 0; found {points!r}"
    assert isinstance(switch, bool), (
        f"a criterion that reconstructs needs a parameter `reconstruct`, true or false; found {switch!r}"
    )
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 30, 3, 4), (2, 3, 4, 5), (2, 30, 5))
    inputs, weight, target = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    old = weight.clone()
    found = criterion.refit(RefitProblem("layer", inputs, weight, target))
    assert found.shape == old.shape, f"refit returned shape {tuple(found.shape)}, not {tuple(old.shape)}"
    assert bool(found.isfinite().all()), "refit returned NaN or infinite weights"
    assert torch.equal(weight, old), "refit changed the weight that it was given instead of returning a new one"


def _check_equivariance(
    criterion: Importance, net: nn.Module, groups: Groups, calibration: Calibration, scores: list[np.ndarray | None]
) -> None:
    """Channels in another order must get the same scores in that order."""
    for g, group in enumerate(groups):
        order = torch.randperm(group.size, generator=torch.Generator().manual_seed(g))
        shuffled = permuted(net, group, order)
        evidence = gather(criterion, shuffled, groups, calibration)
        found = Scorer(criterion, shuffled, groups, evidence).scores()[g]
        before = scores[g]
        if found is None or before is None:
            continue
        gap = np.abs(found - before[order.numpy()]).max()
        assert gap <= TOLERANCE * np.abs(before).max(), (
            f"group {group.name!r}: with channels in another order the scores aren't in that order (gap {gap:.2g})"
        )


def permuted(net: nn.Module, group: Group, order: Tensor) -> nn.Module:
    """A copy of `net` that computes the same with `group`'s channels in another order; one channel per unit."""
    net = copy.deepcopy(net)
    for member in group.members:
        weight = weight_of(net, member)
        assert weight is not None  # every layer of `Sample` has one
        weight.data = weight.data.index_select(arrangement(net, member).axis, order)
        module = net.get_submodule(member.layer)
        for name in ("bias", "running_mean", "running_var") if member.side == "out" else ():
            tensor = getattr(module, name, None)
            if tensor is not None:
                tensor.data = tensor.data[order]
    return net


def _state(net: nn.Module) -> list[Any]:
    tensors = [value.clone() for value in net.state_dict().values()]
    grads = [p.grad for p in net.parameters()]
    return [*tensors, grads, [p.requires_grad for p in net.parameters()], [m.training for m in net.modules()]]


def _same(before: list[Any], after: list[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(before, after, strict=True))


def _pairs(first: list, second: list) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
