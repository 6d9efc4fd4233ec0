"""Sweep -> Plan: the cells, the stages they share, what is done already, what is skipped and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from raybench import registry
from raybench.plan_cost import Cost, Timings, estimate
from raybench.results.store import Store
from raybench.spec.resolve import resolve
from raybench.spec.sweep import Sweep
from raybench.spec.trial import Trial, digest
from raybench.storage.base import Storage

Kind = Literal["base", "sparsify", "select", "cell"]


@dataclass(frozen=True)
class Unit:
    """The least that is scheduled: one shared stage, or one cell."""

    key: str  # trial_id of a cell, key of a stage; for "select" the key of the pass that yields several cuts
    kind: Kind
    trials: tuple[Trial, ...]  # the cell itself; the trials that a stage serves (for "select": one a speed-up)
    needs: tuple[str, ...] = ()  # keys of units in this plan that must have ended well before


@dataclass(frozen=True)
class Skip:
    """A cell that can't be run, known before it starts."""

    trial: Trial
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a run will do, in an order in which every unit comes after what it needs."""

    units: tuple[Unit, ...]
    done: tuple[str, ...]  # trial_ids that need no run: finished, or skipped when they were tried
    skips: tuple[Skip, ...]
    trials: tuple[Trial, ...]  # every cell of the sweep, done and skipped ones included
    stored: Mapping[str, str] = field(default_factory=dict)  # trial_id -> ok|failed|skipped, as the store has it
    unchecked: tuple[str, ...] = ()  # models of which nothing is known before a cell starts
    cost: Cost | None = None  # None when the store has no timings of anything like it

    @property
    def cells(self) -> tuple[Unit, ...]:
        """The units that are cells."""
        return tuple(unit for unit in self.units if unit.kind == "cell")

    @property
    def stages(self) -> tuple[Unit, ...]:
        """The units that are shared stages."""
        return tuple(unit for unit in self.units if unit.kind != "cell")


def plan(
    sweep: Sweep, storage: Storage | None = None, *, retry_failed: bool = True, timed: Storage | None = None
) -> Plan:
    """What running `sweep` on `storage` will do. Without a storage nothing counts as done.

    Failed cells are planned again unless `retry_failed` is False. The cost is told from the finished cells of `timed`
    (`storage` unless given). Raises SpecError as `resolve` does.
    """
    trials = resolve(sweep)
    store = Store(storage) if storage else None
    everything = store.statuses() if store else {}
    ids = {trial.trial_id: trial for trial in trials}
    stored = {trial_id: everything[trial_id] for trial_id in ids if trial_id in everything}
    reasons = {trial_id: reason for trial_id, trial in ids.items() if (reason := why_not(trial))}
    settled = {"ok", "skipped"} if retry_failed else {"ok", "skipped", "failed"}
    done = tuple(i for i in ids if stored.get(i) in settled and (i not in reasons or stored[i] == "ok"))
    open_cells = {i: trial for i, trial in ids.items() if i not in reasons and i not in set(done)}
    units = _units(open_cells, _published(storage))
    return Plan(
        units=units,
        done=done,
        skips=tuple(Skip(ids[i], reason) for i, reason in reasons.items() if i not in set(done)),
        trials=trials,
        stored=stored,
        unchecked=tuple(sorted({t.model for t in trials if t.model not in registry.model.entries()})),
        cost=estimate(units, _timings(timed or storage, everything) if units else {}, sweep.resources),
    )


def why_not(trial: Trial) -> str | None:
    """Why this cell can't be run, from what is known without building the model; None when nothing is against it."""
    model = registry.model.entries().get(trial.model)
    facts = model.facts if model else {}
    dataset = registry.dataset.entry(trial.dataset)
    task = dataset.facts.get("task", "classification")
    if facts.get("task", task) != task:
        return f"{trial.model} is a model for {facts['task']}, {trial.dataset} is data for {task}"
    methods = [registry.importance.entry(trial.importance.name)]
    if trial.regularizer:
        methods.append(registry.regularizer.entry(trial.regularizer.name))
    for method in methods:
        if method.facts.get("labels") == "sampled" and task != "classification":
            return f"{method.kind} {method.name} draws labels from class scores; {trial.dataset} is data for {task}"
        norm = facts.get("norm")
        if method.facts.get("requires") == "batch-norm" and norm not in (None, "batch"):
            has = "has no normalisation" if norm == "none" else f"normalises with {norm} norm"
            return f"{method.kind} {method.name} needs BatchNorm; {trial.model} {has}"
    return None


def _timings(timed: Storage | None, finished: Mapping[str, str]) -> Timings:
    """Seconds that units took, by what they were; none where nothing was ever run."""
    return Store(timed).timings() if timed and (finished or Store(timed).statuses()) else {}


def _published(storage: Storage | None) -> frozenset[str]:
    """Keys of the stages that the cache holds, found with one listing."""
    names = storage.list("stages/") if storage else []
    return frozenset(name.split("/")[1] for name in names)


def _units(cells: Mapping[str, Trial], published: frozenset[str]) -> tuple[Unit, ...]:
    """Stages that are missing and the cells, depth first by kind: bases, sparsifyings, selections, cells."""
    bases: dict[str, list[Trial]] = {}
    sparsifyings: dict[str, list[Trial]] = {}
    passes: dict[str, dict[str, Trial]] = {}
    keys: dict[str, tuple[str, str | None, str, str]] = {}
    for trial_id, trial in cells.items():
        base, sparsify, cut, one_pass = trial.base_key, trial.sparsify_key, trial.select_key, trial.pass_key
        keys[trial_id] = base, sparsify, cut, one_pass
        if base not in published:
            bases.setdefault(base, []).append(trial)
        if sparsify and sparsify not in published:
            sparsifyings.setdefault(sparsify, []).append(trial)
        if cut not in published:
            passes.setdefault(one_pass, {}).setdefault(cut, trial)
    selects = {one: digest("pass", sorted(cuts)) for one, cuts in passes.items()}
    units = [Unit(key, "base", tuple(served)) for key, served in bases.items()]
    for key, served in sparsifyings.items():
        units.append(Unit(key, "sparsify", tuple(served), _among(bases, served[0].base_key)))
    for one, cuts in passes.items():
        served = tuple(sorted(cuts.values(), key=lambda trial: trial.speedup))
        base, sparsify, _, _ = keys[served[0].trial_id]
        units.append(Unit(selects[one], "select", served, _among(bases, base) + _among(sparsifyings, sparsify)))
    for trial_id, trial in cells.items():
        base, sparsify, cut, one = keys[trial_id]
        needs = _among(bases, base) + _among(sparsifyings, sparsify)
        if cut in passes.get(one, {}):
            needs += (selects[one],)
        units.append(Unit(trial_id, "cell", (trial,), needs))
    return tuple(units)


def _among(planned: Mapping[str, Sequence[Trial]], key: str | None) -> tuple[str, ...]:
    return (key,) if key in planned else ()
