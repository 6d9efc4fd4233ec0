"""A plan as JSON and as table rows, for `raybench plan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from raybench import registry
from raybench.catalogue import evidence_kinds, needs_images, reads_images
from raybench.errors import counted
from raybench.plan.records import Estimate, Plan, Unit, UnitKind
from raybench.sweep.kinds import CHANNELS, TOKENS
from raybench.sweep.target import TARGETS, amount
from raybench.sweep.trial import Trial

STAGES: tuple[UnitKind, ...] = ("base", "sparsify", "select")


def as_json(plan: Plan, name: str) -> dict[str, Any]:
    """The plan as JSON: `cells`, one object per cell in the sweep's order, `stages`, `counts` and `cost`."""
    cells = [_cell(trial, *states) for trial, states in zip(plan.trials, cell_states(plan), strict=True)]
    stages = Counter(unit.kind for unit in plan.stages)
    return {
        "name": name,
        "counts": {
            "cells": len(cells),
            **Counter(cell["status"] for cell in cells),
            **{f"{kind}_stages": stages[kind] for kind in STAGES},
        },
        "cells": cells,
        "stages": [_stage(unit) for unit in plan.stages],
        "damaged": [{"file": damage.file.key, "why": damage.why + damage.note} for damage in plan.damaged],
        "slow_selections": gathering_line(plan),
        "shares": [
            {"dataset": one.largest.dataset, "model": one.largest.model, "gpus": one.share and one.share.gpus,
             "measured": one.share and [vars(copies) for copies in one.share.measured]}
            for one in plan.shares.values()
        ],
        "checked_at_start": list(plan.unchecked),
        "known_in_the_run": open_questions(plan),
        "cost": plan.cost and {
            "seconds": dict(plan.cost.seconds), "total_s": plan.cost.total_s, "gpu_hours": plan.cost.gpu_hours,
            "cpu_hours": plan.cost.cpu_hours, "unknown": dict(plan.cost.unknown), "source": plan.cost.source,
        },
    }  # fmt: skip


def cell_states(plan: Plan) -> list[tuple[str, str | None]]:
    """(status, reason) of every cell in the order of `plan.trials`; status is planned, done, skipped or failed."""
    skips = {skip.trial.trial_id: skip.reason for skip in plan.skips}
    planned = {unit.key for unit in plan.cells}
    damaged = {damage.file.trial_id for damage in plan.damaged}
    states: list[tuple[str, str | None]] = []
    for trial in plan.trials:
        stored = plan.stored.get(trial.trial_id, "")
        if trial.trial_id in skips:
            states.append(("skipped", skips[trial.trial_id]))
        elif trial.trial_id in planned:
            again = "its result is damaged, made again" if trial.trial_id in damaged else None
            states.append(("planned", "failed before, tried again" if stored == "failed" else again))
        else:
            states.append(("done" if stored == "ok" else stored, None))
    return states


def axes_of(plan: Plan) -> list[str]:
    """`protocol` and `recipe`, where the sweep has several of them."""
    several: dict[str, set[str]] = {
        "protocol": {t.protocol for t in plan.trials},
        "recipe": {t.recipe.name for t in plan.trials},
        "transfer": {t.transfer for t in plan.trials},
        "depth": {f"{t.depth:g}" for t in plan.trials},
        "images": {_size(t) for t in plan.trials},
    }
    return [name for name, values in several.items() if len(values) > 1]


def board_rows(cells: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    """One row per (dataset, model, protocol, recipe): methods, strategies, speed-ups, and its planned cells."""
    boards: dict[tuple[str, ...], list[Trial]] = {}
    for unit in cells:
        trial = unit.trials[0]
        key: tuple[str, ...] = (trial.dataset, trial.model, trial.protocol, trial.recipe.name, trial.transfer)
        key = (*key, f"{trial.depth:g}", _size(trial))
        boards.setdefault(key, []).append(trial)
    for (dataset, model, protocol, recipe, transfer, depth, size), trials in boards.items():
        yield {
            "dataset": dataset, "model": model, "protocol": protocol, "recipe": recipe, "transfer": transfer,
            "depth": depth, "images": size, "cells": len(trials), "first cell": trials[0].trial_id,
            "methods": len({trial.label for trial in trials}),
            "strategies": ", ".join(sorted({trial.strategy for trial in trials})),
            "speedups": ", ".join(_amounts(trials)),
        }  # fmt: skip


def _size(trial: Trial) -> str:
    """The size of its images as a word."""
    return "own" if trial.image_size is None else str(trial.image_size)


def _amounts(trials: Sequence[Trial]) -> list[str]:
    """The asked amounts, rising: speed-ups first."""
    different = {(trial.target, trial.speedup, trial.ratio): trial for trial in trials}.values()
    rising = sorted({(TARGETS.index(t.target), t.speedup, t.asked) for t in different}, key=lambda one: one[:2])
    return [amount(*asked) for _, _, asked in rising]


def cell_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """One row per cell, with its id, in the sweep's order."""
    for trial, (status, reason) in zip(plan.trials, cell_states(plan), strict=True):
        yield {
            "trial_id": trial.trial_id, "status": status, "dataset": trial.dataset, "model": trial.model,
            "method": trial.label, "strategy": trial.strategy, "target": amount(*trial.asked),
            "seed": trial.seed, "protocol": trial.protocol, "recipe": trial.recipe.name, "transfer": trial.transfer,
            "depth": f"{trial.depth:g}", "images": _size(trial), "reason": reason,
        }  # fmt: skip


def stage_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """One row per kind of shared stage that is planned."""
    of_kind = {kind: [unit for unit in plan.stages if unit.kind == kind] for kind in STAGES}
    cuts = sum(len(unit.trials) for unit in of_kind["select"])
    words = {
        "base": "dense networks, trained or loaded, and evaluated",
        "sparsify": "networks trained further with a regularizer, or by a trained selection",
        "select": f"selections of {_removed(of_kind['select'])} for {counted(cuts, 'cell')}; "
        + _evidence_counts(of_kind["select"]),
    }
    for kind, units in of_kind.items():
        if units:
            yield {"shared stage": kind, "units": len(units), "what": words[kind]}


def _removed(selections: Sequence[Unit]) -> str:
    """What the selections choose: channels, token counts, or both."""
    kinds = {unit.trials[0].kind for unit in selections}
    return " and ".join(words for kind, words in ((CHANNELS, "channels"), (TOKENS, "token counts")) if kind in kinds)


def damage_lines(plan: Plan) -> list[str]:
    """One line for each damaged result file, and what a run does about them."""
    lines = [f"{damage.file.key} is damaged: {damage.why}{damage.note}" for damage in plan.damaged]
    end = "`raybench run` sets damaged files aside and makes again what is planned above"
    return [*lines, end] if lines else []


def open_questions(plan: Plan) -> list[str]:
    """What shows only once networks are built, and may skip planned cells."""
    cells = [unit.trials[0] for unit in plan.cells]
    asked = (
        ("which blocks can go", any(trial.shallower for trial in cells)),
        ("which image sizes fit", any(trial.image_size is not None for trial in cells)),
        ("where tokens can go", any(trial.kind == TOKENS for trial in cells)),
        ("how many milliseconds the uncut networks take", any(trial.target == "latency_ms" for trial in cells)),
    )
    return [*(f"how {model} is built" for model in plan.unchecked), *(what for what, is_asked in asked if is_asked)]


def share_lines(plan: Plan) -> list[str]:
    """One line for each share of a GPU that `gpus: auto` stands for."""
    unknown = "measured when the run starts, then kept in the storage"
    return [
        f"gpus: auto: {one.share.sentence}" if one.share else
        f"gpus: auto: {one.largest.model} on {one.largest.dataset}: {unknown}"
        for one in plan.shares.values()
    ]  # fmt: skip


def gathering_line(plan: Plan) -> str | None:
    """What makes the selections of protocol pruningbench slow; None where none of them looks at images."""
    selections = [unit.trials[0] for unit in plan.stages if unit.kind == "select"]
    slow = sum(trial.protocol == "pruningbench" and _evidence(trial)[1] > 0 for trial in selections)
    if not slow:
        return None
    many, verb = counted(len(selections), "selection"), "is" if slow == 1 else "are"
    return (
        f"{slow} of {many} {verb} slow: protocol pruningbench gathers from the calibration images again before each of "
        "up to 400 steps, raybench's own ten times for a speed-up"
    )


def cost_lines(cost: Estimate) -> list[str]:
    """The estimate as text: the total, its parts, its source, and the units that are not in it."""
    gpu = f", {cost.gpu_hours:.3g} GPU-hours" if cost.gpu_hours else ""
    lines = [
        f"cost: {_duration(cost.total_s)} of computing, one unit at a time ({cost.cpu_hours:.3g} CPU-hours{gpu})",
        "  " + ", ".join(f"{kind} {_duration(seconds)}" for kind, seconds in cost.seconds.items()),
        f"  from {cost.source}",
    ]
    if cost.unknown:
        counts = ", ".join(f"{n} {kind}" for kind, n in cost.unknown.items())
        lines.append(f"  not included, for lack of similar timings: {counts}")
    return lines


def _cell(trial: Trial, status: str, reason: str | None) -> dict[str, Any]:
    same = ("dataset", "model", "method", "strategy", "speedup", "seed", "protocol", "schedule", "task")
    axes = {name: getattr(trial, name) for name in same}
    axes |= dict(zip(("speedup", "ratio", "params", "latency_ms", "latency"), trial.asked, strict=True))
    known = {"trial_id": trial.trial_id, "status": status, "reason": reason, **axes}
    known |= {"label": trial.label, "recipe": trial.recipe.name}
    return known | {"depth": trial.depth, "image_size": trial.image_size}


def _stage(unit: Unit) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "key": unit.key,
        "kind": unit.kind,
        "needs": list(unit.needs),
        "serves": [t.trial_id for t in unit.trials],
    }
    if unit.kind == "select":
        fields["looks_at"], fields["images"] = _evidence(unit.trials[0])
    return fields


def _evidence_counts(selections: Sequence[Unit]) -> str:
    """Inputs of the criteria: ``20 from weights, 8 from gradients of 256 images``."""
    alike: dict[tuple[str, int], list[Trial]] = {}
    for trial in (unit.trials[0] for unit in selections):
        alike.setdefault((trial.label, trial.recipe.calibration_images), []).append(trial)
    counts = Counter[tuple[str, int]]()
    for trials in alike.values():
        counts[_evidence(trials[0])] += len(trials)
    return ", ".join(
        f"{n} from {needs}" + (f" of {counted(images, 'image')}" if images else "")
        for (needs, images), n in counts.items()
    )


def _evidence(trial: Trial) -> tuple[str, int]:
    """(what the trial's criterion scores from, number of calibration images)."""
    if trial.kind == TOKENS:
        return "the network's sizes", 0
    entry = registry.CHOICE.entry(trial.importance.name)
    kinds = evidence_kinds(entry.facts.get("needs", "weights"))
    images = trial.recipe.calibration_images if reads_images(entry, trial.importance.params) else 0
    refits = images and not needs_images(kinds)  # no scores, but outputs of layers to refit to
    return " + ".join((*kinds, *["activations"] * bool(refits))), images


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
