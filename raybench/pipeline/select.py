"""Stage 3: grouping and selection of channels. One pass gives the cuts of all speed-ups.

Each cut is published under its own key, so that adding a speed-up later changes no earlier cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raybench.catalogue import needs_images
from raybench.errors import NotSupported
from raybench.groups.blocks import removed_blocks
from raybench.groups.first_run import check_image
from raybench.groups.records import Groups
from raybench.methods.protocols import Calibration, Importance
from raybench.methods.repair import criterion_named
from raybench.pipeline import base, cache, sparsify, trained
from raybench.pipeline.asked import OF_MACS, Asked, TimedCuts, asked_of
from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.depth import asked_of_whole, blocks_of, check_size, shallow_network
from raybench.pipeline.network import example_of, groups_of
from raybench.pipeline.small import NO_STEP, small_cut
from raybench.pipeline.tokens import token_cuts
from raybench.pipeline.transferred import OfTarget, priced, source_network
from raybench.scoring.scorer import Scoring
from raybench.selection.joint import Removable, select_jointly
from raybench.selection.meters import MACS, BlockMeter
from raybench.selection.problem import STRATEGIES
from raybench.selection.records import Cut
from raybench.selection.select import select as select_channels
from raybench.selection.select import select_ratio
from raybench.selection.shallow import Shallow, without
from raybench.sweep.kinds import TOKENS
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task
from raybench.tasks.training.computing import exact

CUT = "cut.json"
WHILE_TRAINED = "selected while it was trained"


@dataclass(frozen=True)
class Selection:
    """A published cut and the time it took."""

    cut: Cut
    step_time_s: float | None  # one scoring and ranking of all groups, with the machine to itself
    timing_reason: str | None  # why step_time_s is missing
    seconds: float


def run(trials: Sequence[Trial], context: StageContext, note: Note) -> tuple[Selection, ...]:
    """Select channels for the trials of one pass, which differ in speed-up only; published cuts are reused."""
    missing = [trial for trial in trials if not context.storage.has(f"stages/{trial.select_key}")]
    if missing:
        _select(missing, context)
    note(speedups=[trial.speedup for trial in missing])
    return tuple(load(trial, context) for trial in trials)


def load(trial: Trial, context: StageContext) -> Selection:
    """Read the trial's cut from the stage cache."""
    folder = cache.read(context, trial.select_key, "select")
    result = cache.result(folder)
    fields = json.loads(cache.content_of(folder, CUT))
    fields["kept"] = {name: tuple(kept) for name, kept in fields["kept"].items()}
    fields |= {name: tuple(fields.get(name, ())) for name in ("removed", "blocks")}
    return Selection(Cut(**fields), result["step_time_s"], result["timing_reason"], result["seconds"])


def _select(trials: Sequence[Trial], context: StageContext) -> None:
    """Choose what stays for all `trials`, and publish the cuts."""
    started = time.perf_counter()
    trial = trials[0]
    task = open_task(trial, context.data_roots, context.device, context.storage, context.team)
    start = sparsify.load(trial, context) or base.load(trial, context)
    model = base.start_of(start.folder, trial, task, context).eval()
    for found in _found(trials, model, start.folder, task, context):
        seconds = (time.perf_counter() - started) / len(trials)
        result = {"step_time_s": found.step_time_s, "timing_reason": found.timing_reason, "seconds": seconds}
        for one in trials:
            if one.speedup in found.cuts:
                _publish(one, found.cuts[one.speedup], context, result)


def _found(
    trials: Sequence[Trial], model: nn.Module, folder: Path, task: Task, context: StageContext
) -> Iterator[TimedCuts]:
    """The cuts of `trials` in `model`, of the stage in `folder`, as they are found."""
    trial, example = trials[0], example_of(task.data, context.device)
    if trial.kind == TOKENS:
        yield token_cuts(trials, model, example, context.machine)
        return
    if trial.image_size is not None:
        check_size(trial, model, example)
    shallow = shallow_network(trial, model, example, task) if trial.shallower or trial.image_size else None
    model = shallow.model if shallow else model
    groups = groups_of(model, trial, task)
    check_image(model, example, task.calibration(1, 1, 0).images[:1])
    if not len(groups):
        raise NotSupported(f"{trial.model} has nothing to prune: no group of channels was found")
    if trial.importance.trained:
        yield TimedCuts({trial.speedup: trained.cut_of(trial, folder, model, groups, task)}, None, WHILE_TRAINED)
    elif trial.is_small:
        yield from (TimedCuts({one.speedup: small_cut(one, model, task)}, None, NO_STEP) for one in trials)
    else:
        yield _ranked(trials, model, example, groups, task, context, shallow)


def _ranked(
    trials: Sequence[Trial],
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    task: Task,
    context: StageContext,
    shallow: Shallow | None,
) -> TimedCuts:
    """The cuts by the scores of a criterion, all from one pass. `shallow`: where `model` lacks some of its blocks."""
    trial = trials[0]
    criterion = criterion_of(trial)
    scored = source_network(trial, task, context).eval() if trial.prunes_first else model
    scoring = Scoring(criterion, scored, calibration_of(criterion, trial, task), trial.selection_seed)
    removable = _removable(trial, model, example, task) if STRATEGIES[trial.strategy].blocks else None
    amounts = asked_of_whole(shallow) if shallow else asked_of
    asked = amounts(trial, model, example, groups, context, removable)
    if removable:
        of = partial(OfTarget, model=model, groups=groups, example=example) if trial.prunes_first else None
        cuts = _joint_cuts(trials, scoring, example, groups, asked, removable, of)
    else:
        cuts = _cuts(trials, scoring, example, groups, asked)
    if shallow and trial.ratio is not None:
        cuts = {amount: shallow.of_whole(cut, shallow.macs_base / cut.macs) for amount, cut in cuts.items()}
    if trial.prunes_first:
        cuts = priced(cuts, trial, model, example, groups, removable)
    return TimedCuts(cuts, *context.machine.timed(lambda: exact(context.device)(_time_step)(scoring, groups)))


def _cuts(
    trials: Sequence[Trial], scoring: Scoring, example: Tensor, groups: Groups, asked: Asked = OF_MACS
) -> dict[float, Cut]:
    """Asked amount -> cut, for trials that differ in it only; a trial with a ratio has a pass of its own."""
    trial, exactly = trials[0], exact(example.device)
    if trial.ratio is not None:
        how = {name: getattr(trial, name) for name in ("strategy", "round_to")}
        return {trial.speedup: exactly(select_ratio)(scoring, example, groups, trial.ratio, **how)}
    pick = exactly(select_channels)
    how = {name: getattr(trial, name) for name in ("strategy", "schedule", "protocol", "round_to")}
    return asked.cuts(lambda targets, **more: pick(scoring, example, groups, targets, **how | more), trials)


def _joint_cuts(
    trials: Sequence[Trial],
    scoring: Scoring,
    example: Tensor,
    groups: Groups,
    asked: Asked,
    removable: Removable,
    of: Callable[[BlockMeter], BlockMeter] | None,
) -> dict[float, Cut]:
    """The same for a strategy that may remove whole blocks. `of`: the cost in place of that of the scored network."""
    how = {name: getattr(trials[0], name) for name in ("strategy", "schedule", "round_to")}

    def select(targets: Sequence[float], meter: BlockMeter = MACS) -> dict[float, Cut]:
        own = of(meter) if of else meter
        with exact(example.device):
            return select_jointly(scoring, example, groups, targets, removable, meter=own, **how)

    return asked.cuts(select, trials)


def _removable(trial: Trial, model: nn.Module, example: Tensor, task: Task) -> Removable:
    """The blocks of `model` that the trial's strategy may remove."""

    def regroup(slim: nn.Module) -> Groups:
        whole = model if trial.prunes_first else None  # where the scored network has another classifier
        return groups_of(without(whole, removed_blocks(slim)) if whole else slim, trial, task)

    return Removable(blocks_of(trial, model, example), regroup)


def criterion_of(trial: Trial) -> Importance:
    """The trial's criterion with its parameters."""
    return criterion_named(trial.importance.name, trial.importance.params)


def calibration_of(criterion: Importance, trial: Trial, task: Task) -> Calibration | None:
    """The criterion's calibration images, None if it needs weights only."""
    if not needs_images(criterion.needs) and not criterion.reconstructs:
        return None
    return task.calibration(trial.recipe.calibration_images, trial.recipe.calibration_batch, trial.selection_seed)


def _time_step(scoring: Scoring, groups: Groups) -> float:
    """Seconds of one step as the paper times it: score every group once and rank all units."""
    started = time.perf_counter()
    scoring.scorer(groups).rank()
    return time.perf_counter() - started


def _publish(trial: Trial, cut: Cut, context: StageContext, result: dict[str, Any]) -> None:
    """Put a cut into the stage cache."""

    def build(folder: Path) -> dict[str, Any]:
        (folder / CUT).write_text(json.dumps(asdict(cut), allow_nan=False))
        return result

    cache.build_once(context, trial.select_key, build, seconds=result["seconds"])
