"""Stage 3: grouping and selection of channels. One pass gives the cuts of all speed-ups.

Each cut is published under its own key, so that adding a speed-up later changes no earlier cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from raybench.catalogue import needs_images
from raybench.errors import NotSupported
from raybench.groups.first_run import check_image
from raybench.groups.records import Groups
from raybench.methods.protocols import Calibration, Importance
from raybench.methods.repair import criterion_named
from raybench.pipeline import base, cache, sparsify
from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.network import example_of, groups_of, model_of
from raybench.scoring.scorer import Scoring
from raybench.selection.records import Cut
from raybench.selection.select import select as select_channels
from raybench.selection.select import select_ratio
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task

CUT = "cut.json"


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
    return Selection(Cut(**fields), result["step_time_s"], result["timing_reason"], result["seconds"])


def _select(trials: Sequence[Trial], context: StageContext) -> None:
    """Trace the groups, score and select for all `trials`, and publish the cuts."""
    started = time.perf_counter()
    trial = trials[0]
    task = open_task(trial, context.data_roots, context.device, context.storage, context.team)
    start = sparsify.load(trial, context) or base.load(trial, context)
    model = model_of(start.folder, trial, task, context.device).eval()
    groups = groups_of(model, trial, task)
    check_image(model, example_of(task.data, context.device), task.calibration(1, 1, 0).images[:1])
    if not len(groups):
        raise NotSupported(f"{trial.model} has nothing to prune: no group of channels was found")
    criterion = criterion_of(trial)
    scoring = Scoring(criterion, model, calibration_of(criterion, trial, task), trial.selection_seed)
    cuts = _cuts(trials, scoring, example_of(task.data, context.device), groups)
    step_s, reason = context.machine.timed(lambda: _time_step(scoring, groups))
    seconds = (time.perf_counter() - started) / len(trials)
    result = {"step_time_s": step_s, "timing_reason": reason, "seconds": seconds}
    for trial in trials:
        _publish(trial, cuts[trial.speedup], context, result)


def _cuts(trials: Sequence[Trial], scoring: Scoring, example: Tensor, groups: Groups) -> dict[float, Cut]:
    """Speed-up -> cut, for trials that differ in speed-up only; a trial with a ratio has a pass of its own."""
    trial = trials[0]
    if trial.ratio is not None:
        cut = select_ratio(scoring, example, groups, trial.ratio, strategy=trial.strategy, round_to=trial.round_to)
        return {trial.speedup: cut}
    return select_channels(
        scoring, example, groups, [t.speedup for t in trials],
        strategy=trial.strategy, schedule=trial.schedule, protocol=trial.protocol, round_to=trial.round_to,
    )  # fmt: skip


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
