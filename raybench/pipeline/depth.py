"""Cells that remove a share of the blocks before channels: the shallower network, and targets of the whole one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybench.error_text import first_line
from raybench.errors import NotSupported, counted
from raybench.groups.blocks import lacks_blocks, removable_blocks
from raybench.groups.cost import count_macs, params_of
from raybench.groups.records import Groups
from raybench.pipeline.asked import Asked, Cuts, OfLatency, Select, asked_of, timing_of
from raybench.pipeline.context import StageContext
from raybench.pipeline.measure import ONE, medians_ms
from raybench.pipeline.network import example_of, layers_left
from raybench.selection.depth import block_influence, least_influential, staying
from raybench.selection.joint import Removable
from raybench.selection.records import Cut
from raybench.selection.shallow import Shallow
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task


def blocks_of(trial: Trial, model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """The blocks of `model`, the whole network or what the trial's depth leaves of it, that may go.

    Raises:
        NotSupported: there are none.
    """
    keep, only = layers_left(model, trial.keep, trial.only) if lacks_blocks(model) else (trial.keep, trial.only)
    blocks = removable_blocks(model, example, protect=keep, only=only)
    if not blocks and lacks_blocks(model):
        raise NotSupported(
            f"{trial.strategy}: depth {trial.depth:g} leaves {trial.model} no block that could go beside it; "
            "strategy optimal chooses widths alone"
        )
    if not blocks:
        asked = f"depth {trial.depth:g}" if trial.shallower else trial.strategy
        raise NotSupported(
            f"{asked}: {trial.model} has no removable block: no module that may go returns its input plus something"
        )
    return blocks


def shallow_network(trial: Trial, model: nn.Module, example: Tensor, task: Task) -> Shallow:
    """A copy of `model` without the blocks that the trial's depth leaves out, those of least influence.

    It is counted against the whole network on images of the dataset's own size.

    Raises:
        NotSupported: the network has no removable block.
    """
    own = None if trial.image_size is None else example_of(task.data.own, example.device)
    if not trial.shallower:
        return Shallow.of(model, (), 0, example, own=own)
    blocks = blocks_of(trial, model, example)
    gone = len(blocks) - staying(trial.depth, len(blocks))
    if not gone:
        note = f"blocks: of {counted(len(blocks), 'removable block')} depth {trial.depth:g} rounds to all: none went"
        return Shallow.of(model, (), len(blocks), example, note, own)
    removed = [blocks[i] for i in least_influential(influence_of(trial, model, blocks, task), gone)]
    return Shallow.of(model, removed, len(blocks), example, own=own)


def influence_of(trial: Trial, model: nn.Module, blocks: Sequence[str], task: Task) -> list[float]:
    """The influence of each of `blocks` on the recipe's calibration images."""
    recipe = trial.recipe
    images = task.calibration(recipe.calibration_images, recipe.calibration_batch, trial.selection_seed)
    return block_influence(model, blocks, images)


@torch.no_grad()
def check_size(trial: Trial, model: nn.Module, example: Tensor) -> None:
    """NotSupported where the network takes no images of the trial's size."""
    try:
        model(example)
    except Exception as error:  # a network may refuse a size with any error
        why = first_line(error)
        raise NotSupported(f"image size {trial.image_size}: {trial.model} takes no such images: {why}") from error


@dataclass(frozen=True)
class OfWhole:
    """Amounts that are of the whole network, for cuts of the shallower one: what the blocks saved is taken off."""

    inner: Asked
    shallow: Shallow
    saved: float  # whole / shallower network, of the cost that the targets are of; 1 for milliseconds
    most: float  # amount from which on no channel has to go: 1 for a ratio, milliseconds of the shallower network
    uncut: Callable[[float, float, str], Cut]  # (asked amount, what the blocks alone give, its unit) -> cut

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """Asked amount -> cut; where the blocks alone save as much, no channel goes and the cut says so."""
        left = {trial.speedup: trial.speedup / self.saved for trial in trials}
        more = [one.model_copy(update={"speedup": left[one.speedup]}) for one in trials if self._is_left(one, left)]
        found = self.inner.cuts(select, more) if more else {}
        return {one.speedup: self._cut(one, found.get(left[one.speedup])) for one in trials}

    def _is_left(self, trial: Trial, left: Mapping[float, float]) -> bool:
        """Whether channels have to go, too."""
        amount = left[trial.speedup]
        return amount < self.most if trial.target == "latency_ms" else amount > self.most

    def _cut(self, trial: Trial, found: Cut | None) -> Cut:
        if found is not None:
            return self.shallow.of_whole(found, trial.speedup)
        got, unit = (self.most, " ms") if trial.target == "latency_ms" else (self.saved, "x")
        return self.uncut(trial.speedup, got, unit)


def asked_of_whole(shallow: Shallow) -> Callable[..., Asked]:
    """`asked_of`, with amounts that are of the whole network; `groups` are those of the shallower one."""

    def asked(
        trial: Trial, model: nn.Module, example: Tensor, groups: Groups, context: StageContext,
        removable: Removable | None,
    ) -> Asked:  # fmt: skip
        inner = asked_of(trial, model, example, groups, context, removable)
        absolute = isinstance(inner, OfLatency) and not inner.relative
        most = inner.prediction.meter.base if isinstance(inner, OfLatency) and absolute else 1.0
        saved = 1.0 if absolute else SAVED[trial.target](shallow, example, context)
        how = groups, example, trial.strategy, trial.round_to
        return OfWhole(inner, shallow, saved, most, lambda *amounts: shallow.uncut(*how, *amounts))

    return asked


def _time_saved(shallow: Shallow, example: Tensor, context: StageContext) -> float:
    """Milliseconds of the whole network / those of the shallower one, timed in turns."""
    nets = [shallow.whole.eval(), shallow.model.eval()]
    images = [example if shallow.own is None else shallow.own, example]
    whole_ms, left_ms = timing_of(*context.machine.timed(lambda: medians_ms(nets, images, ONE)))
    return whole_ms / left_ms


SAVED: dict[str, Callable[[Shallow, Tensor, StageContext], float]] = {
    "macs": lambda shallow, example, context: shallow.macs_base / count_macs(shallow.model, example),
    "params": lambda shallow, example, context: shallow.params_base / params_of(shallow.model),
    "latency": _time_saved,
}
