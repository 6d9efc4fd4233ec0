"""`raybench plan SWEEP`: what a run would do, in under a second; imports neither torch nor ray."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.plan import Plan, Unit, plan
from raybench.spec.trial import Trial
from raybench.storage.open import open_storage

KINDS = ("base", "sparsify", "select", "cell")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_sweep(parser)
    parser.add_argument(
        "--storage", metavar="DIR", help="what is in here is done already (default: the sweep's, or results/NAME)"
    )
    parser.add_argument("--no-retry-failed", action="store_true", help="leave failed cells as they are")
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    sweep = read_sweep(args)
    url = args.storage or sweep.storage or f"results/{sweep.name}"  # as `run`
    planned = plan(sweep, open_storage(url), retry_failed=not args.no_retry_failed)
    if args.format == "json":
        print_json(as_json(planned, sweep.name))
    else:
        _print(planned, sweep.name, url)


def as_json(planned: Plan, name: str) -> dict[str, Any]:
    """The plan as plain data: `cells`, one object a cell, `stages`, `counts` and `cost`."""
    states = _states(planned)
    cost = planned.cost
    return {
        "name": name,
        "counts": {"cells": len(states), **Counter(status for status, _ in states.values()), **_stage_counts(planned)},
        "cells": [
            {"trial_id": trial.trial_id, "status": states[i][0], "reason": states[i][1], **_axes(trial)}
            for i, trial in enumerate(planned.trials)
        ],
        "stages": [
            {"key": unit.key, "kind": unit.kind, "needs": list(unit.needs), "serves": [t.trial_id for t in unit.trials]}
            for unit in planned.stages
        ],
        "checked_at_start": list(planned.unchecked),
        "cost": cost and {
            "seconds": dict(cost.seconds), "total_s": cost.total_s, "gpu_hours": cost.gpu_hours,
            "cpu_hours": cost.cpu_hours, "unknown": dict(cost.unknown), "source": cost.source,
        },
    }  # fmt: skip


def _print(planned: Plan, name: str, url: str) -> None:
    console = Console()
    states = Counter(status for status, _ in _states(planned).values())
    told = ", ".join(
        f"{states[status]} {status}" for status in ("planned", "done", "skipped", "failed") if states[status]
    )
    console.print(f"[bold]{name}[/]: {len(planned.trials)} cells: {told} (storage {url})", highlight=False)
    if retried := sum(planned.stored.get(unit.key) == "failed" for unit in planned.cells):
        console.print(f"{retried} of the planned ones failed before and are tried again", highlight=False)
    if planned.units:
        console.print()
        print_rows(list(_grid_rows(planned.cells)), ["dataset", "model", "methods", "strategies", "speedups", "cells"])
    if planned.stages:
        console.print()
        rows = [_stage_row(kind, [u for u in planned.stages if u.kind == kind]) for kind in KINDS[:-1]]
        print_rows([row for row in rows if row["units"]], ["shared stage", "units", "what"])
    if planned.skips:
        console.print()
        reasons = Counter(skip.reason for skip in planned.skips)
        print_rows([{"skipped": n, "reason": reason} for reason, n in reasons.items()], ["skipped", "reason"])
    if planned.unchecked:
        console.print(f"\nchecked at start: {', '.join(planned.unchecked)}", highlight=False)
    if planned.cost:
        console.print(f"\n{_cost_line(planned)}", highlight=False)


def _grid_rows(cells: Iterable[Unit]) -> Iterable[dict[str, Any]]:
    """One row a (dataset, model) with what is planned for it."""
    boards: dict[tuple[str, str], list[Trial]] = {}
    for unit in cells:
        trial = unit.trials[0]
        boards.setdefault((trial.dataset, trial.model), []).append(trial)
    for (dataset, model), trials in boards.items():
        speedups = sorted({trial.speedup for trial in trials})
        yield {
            "dataset": dataset, "model": model, "cells": len(trials),
            "methods": len({trial.method for trial in trials}),
            "strategies": ", ".join(sorted({trial.strategy for trial in trials})),
            "speedups": ", ".join(f"{speedup:g}x" for speedup in speedups),
        }  # fmt: skip


def _stage_row(kind: str, units: list[Unit]) -> dict[str, Any]:
    what = {
        "base": "dense networks, trained or loaded, and evaluated",
        "sparsify": "networks trained on under a regularizer",
        "select": f"selections that yield {sum(len(unit.trials) for unit in units)} cuts",
    }
    return {"shared stage": kind, "units": len(units), "what": what[kind]}


def _cost_line(planned: Plan) -> str:
    cost = planned.cost
    assert cost
    gpu = f", {cost.gpu_hours:.3g} GPU-hours" if cost.gpu_hours else ""
    lines = [f"cost: {_duration(cost.total_s)} of computing, one unit at a time ({cost.cpu_hours:.3g} CPU-hours{gpu})"]
    lines.append("  " + ", ".join(f"{kind} {_duration(s)}" for kind, s in cost.seconds.items()))
    lines.append(f"  from {cost.source}")
    if cost.unknown:
        counts = ", ".join(f"{n} {kind}" for kind, n in cost.unknown.items())
        lines.append(f"  not in it, nothing like them was timed: {counts}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _states(planned: Plan) -> dict[int, tuple[str, str | None]]:
    """place of the cell -> (planned|done|skipped|failed, reason)."""
    skips = {skip.trial.trial_id: skip.reason for skip in planned.skips}
    todo = {unit.key for unit in planned.cells}
    found: dict[int, tuple[str, str | None]] = {}
    for place, trial in enumerate(planned.trials):
        stored = planned.stored.get(trial.trial_id)
        if trial.trial_id in skips:
            found[place] = "skipped", skips[trial.trial_id]
        elif trial.trial_id in todo:
            found[place] = "planned", "failed before, tried again" if stored == "failed" else None
        else:
            found[place] = {"ok": "done"}.get(stored or "", stored), None
    return found


def _stage_counts(planned: Plan) -> dict[str, int]:
    counts = Counter(unit.kind for unit in planned.stages)
    return {f"{kind}_stages": counts[kind] for kind in KINDS[:-1]}


def _axes(trial: Trial) -> dict[str, Any]:
    same = ("dataset", "model", "method", "strategy", "seed", "protocol", "schedule", "task")
    return {name: getattr(trial, name) for name in same} | {"speedup": trial.speedup, "recipe": trial.recipe.name}
