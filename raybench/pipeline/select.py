"""Stages 3 and 4a, group and select: which channels go. One pass yields the cuts of all speed-ups asked for.

A cut is published per speed-up under its own key, so that asking for other speed-ups later adds cuts and
never changes one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raybench import registry
from raybench.errors import NotSupported
from raybench.methods.evidence import gather
from raybench.methods.protocols import Calibration, Importance
from raybench.methods.scoring import Scorer
from raybench.pipeline import base, cache, sparsify
from raybench.pipeline.exclusive import SHARED
from raybench.pipeline.network import example_of, groups_of, model_of
from raybench.pipeline.prune import select as select_channels
from raybench.pipeline.prune import select_ratio
from raybench.pipeline.records import Cut, Groups
from raybench.pipeline.room import Room
from raybench.spec.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task

CUT = "cut.json"


@dataclass(frozen=True)
class Selection:
    """A published cut and what it took to find it."""

    cut: Cut
    step_time_s: float | None  # one scoring and ranking of all groups, timed alone on the machine
    timing_reason: str | None
    seconds: float


def run(trials: Sequence[Trial], room: Room, note: base.Note) -> tuple[Selection, ...]:
    """Select the channels for every trial of one pass (they differ in speed-up only)."""
    missing = [trial for trial in trials if not room.storage.has(f"stages/{trial.select_key}")]
    if missing:
        _select(missing, room)
    note(speedups=[trial.speedup for trial in missing])
    return tuple(load(trial, room) for trial in trials)


def load(trial: Trial, room: Room) -> Selection:
    """The cut that an earlier unit selected for this trial."""
    folder = cache.read(room, trial.select_key, "select")
    told = cache.result(folder)
    fields = json.loads((folder / CUT).read_text())
    fields["kept"] = {name: tuple(kept) for name, kept in fields["kept"].items()}
    return Selection(Cut(**fields), told["step_time_s"], told["timing_reason"], told["seconds"])


def _select(trials: Sequence[Trial], room: Room) -> None:
    started = time.perf_counter()
    trial = trials[0]
    task = open_task(trial, room.data_roots, room.device, room.storage)
    start = sparsify.load(trial, room) or base.load(trial, room)
    model = model_of(start.folder, trial, task, room.device).eval()
    groups = groups_of(model, trial, task)
    if not len(groups):
        raise NotSupported(f"{trial.model} has nothing to prune: no group of channels was found")
    criterion = criterion_of(trial)
    calibration = calibration_of(criterion, trial, task)
    cuts = _cuts(trials, model, example_of(task.data, room.device), groups, criterion, calibration)
    with room.node.exclusive() as alone:
        step_s = _time_step(criterion, model, groups, calibration, trial.seed) if alone else None
    reason = None if alone else SHARED
    seconds = (time.perf_counter() - started) / len(trials)
    for one in trials:
        _publish(one, cuts[one.speedup], room, {"step_time_s": step_s, "timing_reason": reason, "seconds": seconds})


def _cuts(
    trials: Sequence[Trial],
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    criterion: Importance,
    calibration: Calibration | None,
) -> dict[float, Cut]:
    """Speed-up -> cut, for trials that differ in nothing else; a trial with a ratio is alone in its pass."""
    trial = trials[0]
    how = {"strategy": trial.strategy, "calibration": calibration, "seed": trial.seed, "round_to": trial.round_to}
    if trial.ratio is not None:
        return {trial.speedup: select_ratio(model, example, groups, criterion, trial.ratio, **how)}
    speedups = [one.speedup for one in trials]
    how |= {"schedule": trial.schedule, "protocol": trial.protocol}
    return select_channels(model, example, groups, criterion, speedups, **how)


def criterion_of(trial: Trial) -> Importance:
    """The trial's criterion with its parameters."""
    return registry.importance.load(trial.importance.name)(**trial.importance.params)


def calibration_of(criterion: Importance, trial: Trial, task: Task) -> Calibration | None:
    """The images that the criterion may look at, None for one that needs weights only."""
    if criterion.needs in ("nothing", "weights") and not criterion.reconstructs:
        return None
    return task.calibration(trial.recipe.calibration_images, trial.recipe.calibration_batch, trial.seed)


def _time_step(
    criterion: Importance, model: nn.Module, groups: Groups, calibration: Calibration | None, seed: int
) -> float:
    """Seconds of one step as the paper times it: score every group once and rank all units."""
    started = time.perf_counter()
    scorer = Scorer(criterion, model, groups, gather(criterion, model, groups, calibration), seed)
    scorer.rank()
    return time.perf_counter() - started


def _publish(trial: Trial, cut: Cut, room: Room, told: dict[str, Any]) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / CUT).write_text(json.dumps(asdict(cut), allow_nan=False))
        return told

    cache.build_once(room, trial.select_key, build, seconds=told["seconds"])
