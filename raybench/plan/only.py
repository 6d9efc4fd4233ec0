"""The part of a plan that one cell needs: `raybench run --only`."""

from __future__ import annotations

from dataclasses import replace

from raybench.errors import UserError
from raybench.plan.records import Plan


def only_cell(plan: Plan, trial_id: str) -> Plan:
    """The part of `plan` that one cell needs; UserError unless exactly one trial_id starts with `trial_id`."""
    found = [trial.trial_id for trial in plan.trials if trial.trial_id.startswith(trial_id)]
    if len(found) != 1:
        count = "no cell" if not found else f"{len(found)} cells"
        raise UserError(f"--only {trial_id}: found {count} of that id; expected one (raybench plan lists them)")
    units = {unit.key: unit for unit in plan.units}
    wanted = [found[0]] if found[0] in units else []
    for key in wanted:  # the list grows during the loop
        wanted += [need for need in units[key].needs if need in units and need not in wanted]
    trials = tuple(trial for trial in plan.trials if trial.trial_id == found[0])
    skips = tuple(skip for skip in plan.skips if skip.trial.trial_id == found[0])
    return replace(plan, units=tuple(u for u in plan.units if u.key in wanted), trials=trials, skips=skips)
