"""The `pruningbench` protocol: torch-pruning's own loop, decision for decision, without its surgery.

Its rules differ from raybench's on purpose: a floor that only stops groups already below it, all ties removed,
a step that would empty a group skipped, and a stop at the first step past the target by the library's own count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch_pruning.utils import op_counter

from raybench.methods.scoring import Scorer
from raybench.pipeline import surgery
from raybench.pipeline.attention import plainly
from raybench.pipeline.prune_plan import Living, Problem, Solution, held_back
from raybench.pipeline.records import Groups

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
NEAR = 0.005  # of the target: what is farther off has a reason
Counter = Callable[[Sequence[np.ndarray] | None], int]  # kept units of every group (None: all) -> MACs


def library_counts(model: nn.Module, example: Tensor, groups: Groups) -> Counter:
    """A function that counts MACs per image as torch-pruning does, of `model` cut to the given units.

    It runs the library's own hooks over a network that has shapes but no numbers (device "meta"), cut and made
    whole again in place. The library's function copies the network and computes the forward pass for each count.
    """
    shapes = {id(t): _shape_only(t) for t in (*model.parameters(), *model.buffers())}
    shell = copy.deepcopy(model, shapes)
    image = example[:1].to("meta")
    for module in shell.modules():
        if type(module) in op_counter.MODULES_MAPPING:
            module.register_forward_hook(op_counter.MODULES_MAPPING[type(module)])
            if isinstance(module, NORMS):
                module.forward = _same  # the hooks look at shapes, and a norm keeps them

    def count(kept: Sequence[np.ndarray] | None) -> int:
        with _restored(shell), plainly(shell), torch.no_grad():
            if kept is not None:
                surgery.apply(shell, groups, {g.name: units for g, units in zip(groups, kept, strict=True)})
            for module in shell.modules():
                module.__flops__ = 0
            shell(image)
            return _total(shell)

    return count


def _shape_only(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _total(module: nn.Module) -> int:
    """The library's sum: what a module it knows counted for itself, else the sum over its children."""
    if type(module) in op_counter.MODULES_MAPPING:
        return module.__flops__
    return sum(map(_total, module.children()))


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Undo what a surgery replaces: parameters, buffers and attributes of every module."""
    before = {m: {**vars(m), "_parameters": dict(m._parameters), "_buffers": dict(m._buffers)} for m in model.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)


def library(
    problem: Problem, scorer: Scorer, targets: Sequence[float], steps: int, count: Counter
) -> dict[float, Solution]:
    """Each target (ascending) at the first of `steps` steps whose speed-up, as the library counts, reaches it."""
    walk = _Walk(problem, scorer, steps)
    base = count(None)
    return {target: _stop(walk, target, lambda kept: base / count(kept)) for target in targets}


def _stop(walk: _Walk, target: float, speedup: Callable[[Sequence[np.ndarray]], float]) -> Solution:
    """Bisect over the walk's steps: the speed-up only ever grows."""
    ahead = 1.05 * target  # by raybench's count, which differs by a few percent
    while not walk.reaches(ahead) or speedup(walk.kept(len(walk.path) - 1)) < target:
        if walk.ended:
            break
        ahead *= 1.05
    low, high = 0, len(walk.path) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if speedup(walk.kept(middle)) >= target else (middle + 1, high)
    return Solution(tuple(walk.kept(low)), _reason(walk, low, target, speedup(walk.kept(low))), low)


def _reason(walk: _Walk, step: int, target: float, reached: float) -> str | None:
    """Why the cut after `step` steps is off its target; `reached`: its speed-up as the library counts."""
    problem, counts = walk.problem, np.array([alive.sum() for alive in walk.path[step]])
    if reached < target:
        told = held_back(problem, counts, walk.scorer.scores(walk.path[step]))
        return f"floor: best reachable {reached:.3f} after {walk.steps} steps; {told}"
    if reached > (1 + NEAR) * target:
        return f"overshoot: the library stops {reached / target - 1:.2%} past the target"
    if abs(problem.cost.macs_base / float(problem.cost.macs(counts)) / target - 1) > NEAR:
        return f"count: {reached:.3f} as torch-pruning counts (macs_tp)"
    return None


class _Walk:
    """The loop's states, one after each step, walked as far as somebody asks."""

    def __init__(self, problem: Problem, scorer: Scorer, steps: int) -> None:
        self.problem, self.scorer, self.steps = problem, scorer, steps
        self.path = [[np.ones(size, dtype=bool) for size in problem.sizes]]
        self.initial: dict[int, int] = {}

    @property
    def ended(self) -> bool:
        """Whether every step was taken."""
        return len(self.path) > self.steps

    def kept(self, step: int) -> list[np.ndarray]:
        """Units of every group that live after `step` steps."""
        return [np.nonzero(alive)[0] for alive in self.path[step]]

    def reaches(self, speedup: float) -> bool:
        """Walk until raybench's count shows `speedup`; False when the steps end before."""
        cost = self.problem.cost
        while cost.macs_base / cost.macs(np.array([a.sum() for a in self.path[-1]])) < speedup:
            if self.ended:
                return False
            self._step()
        return True

    def _step(self) -> None:
        problem, alive = self.problem, self.path[-1]
        scores = [None if s is None else s.astype(np.float32) for s in self.scorer.scores(alive)]
        usable = _usable(problem, np.array([a.sum() for a in alive]))
        after = [a.copy() for a in alive]
        ratio = len(self.path) / float(self.steps)
        for scope in np.unique(problem.scopes):
            members = [g for g in np.nonzero(problem.scopes == scope)[0] if usable[g] and scores[g] is not None]
            if members:
                self._remove(int(scope), members, scores, alive, ratio, after)
        self.path.append(after)

    def _remove(
        self,
        scope: int,
        members: Sequence[int],
        scores: Sequence[np.ndarray | None],
        alive: Sequence[np.ndarray],
        ratio: float,
        after: Sequence[np.ndarray],
    ) -> None:
        living = Living(members, scores, alive)
        n = living.count - int(self.initial.setdefault(scope, living.count) * (1 - ratio))
        if n <= 0:
            return
        # `imp <= thres` takes all ties; a scope of one group takes exactly its n lowest
        group, unit = living.up_to(living.nth(n)) if self.problem.ties_go else living.lowest(n)
        for g in members:
            gone = self._rounded(unit[group == g], scores[g], alive[g])
            if 0 < len(gone) <= alive[g].sum() - self.problem.groups.groups[g].least:
                after[g][gone] = False

    def _rounded(self, gone: np.ndarray, score: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """The library rounds what stays down to a multiple: more of the lowest go."""
        if self.problem.round_to == 1 or not len(gone):
            return gone
        living = np.nonzero(alive)[0]
        stays = len(living) - len(gone)
        stays -= stays % self.problem.round_to
        return living[np.argsort(score[living], kind="stable")][: len(living) - stays]


def _usable(problem: Problem, counts: np.ndarray) -> np.ndarray:
    """Groups none of whose layers is already below the soft floor, or down to one channel (`_check_pruning_ratio`)."""
    widths = problem.cost.widths
    now, before = widths.at(counts), widths.at(problem.sizes)
    most = 1 - problem.protected_share  # written as the library does, for the same rounding
    low = (now < before * (1 - most)) | (now == 1)
    return np.array(
        [
            not any(low[widths.columns[m.layer, m.side]] for m in group.members if m.kind != "parameter")
            for group in problem.groups
        ]
    )
