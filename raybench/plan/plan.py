"""Makes the plan of a sweep: cells, shared stages, what is already done, what is skipped and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raybench import registry
from raybench.catalogue import REPAIR, reads_images
from raybench.models.family import has_family
from raybench.plan.cost import Timings, estimate
from raybench.plan.records import Plan, Skip, Unit
from raybench.plan.shares import shares_of, with_probes
from raybench.plan.uncollected import uncollected
from raybench.results.repair import Damage, Repair
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.sweep.digests import digest
from raybench.sweep.image_sizes import no_size
from raybench.sweep.kinds import KNAPSACKS, REMOVES_BLOCKS, TOKENS
from raybench.sweep.resolve import resolve
from raybench.sweep.resources import Resources
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import TIMED
from raybench.sweep.trial import Trial
from raybench.sweep.weights import STAGE


@uncollected()
def plan(
    sweep: Sweep, storage: Storage | None = None, *, retry_failed: bool = True, timed: Storage | None = None
) -> Plan:
    """What running `sweep` on `storage` will do. Without a storage, nothing counts as done.

    Args:
        sweep: what to plan.
        storage: holds what earlier runs have finished; None: nothing is done yet.
        retry_failed: whether cells that failed are planned again.
        timed: a storage whose finished cells the cost is estimated from; None: `storage`.

    Returns:
        Units in an order that can be run, cells that are done, skips with reasons, and the cost if it can be estimated.

    Raises:
        SpecError: a weights file or a user's data can't be read, or no cell is left.

    Example:
        >>> import raybench
        >>> planned = raybench.plan_sweep(raybench.load_sweep("quickstart"))
        >>> len(planned.cells)
        56
    """
    trials = resolve(sweep)
    damaged = Repair(storage).look(trials) if storage else ()
    return plan_trials(trials, sweep.resources, storage, retry_failed=retry_failed, timed=timed, damaged=tuple(damaged))


def plan_trials(
    trials: Sequence[Trial],
    resources: Resources,
    storage: Storage | None = None,
    *,
    retry_failed: bool = True,
    timed: Storage | None = None,
    damaged: tuple[Damage, ...] = (),
) -> Plan:
    """The plan of trials that are resolved already: reads `storage`, but neither weights nor data. See `plan`.

    `damaged`: files that a run will set aside; their cells aren't done, but for the rows that are whole.
    """
    store = Store(storage) if storage else None
    everything = _without(store.statuses(), damaged) if store else {}
    ids = {trial.trial_id: trial for trial in trials}
    stored = {trial_id: everything[trial_id] for trial_id in ids if trial_id in everything}
    reasons = _reasons(ids)
    settled = {"ok", "skipped"} if retry_failed else {"ok", "skipped", "failed"}
    done = dict.fromkeys(i for i in ids if stored.get(i) in settled and (i not in reasons or stored[i] == "ok"))
    open_cells = {i: trial for i, trial in ids.items() if i not in reasons and i not in done}
    shares = shares_of(trials, resources, storage)
    units = with_probes(_with_recipes(_units(open_cells, _published(storage)), trials), shares)
    timings = _timings(timed or storage, everything) if units else {}
    cost, seconds = estimate(units, timings, resources, shares)
    return Plan(
        units=units,
        done=tuple(done),
        skips=tuple(Skip(ids[i], reason) for i, reason in reasons.items() if i not in done),
        trials=tuple(trials),
        stored=stored,
        damaged=damaged,
        unchecked=tuple(sorted({t.model for t in trials if t.model not in registry.model.entries()})),
        cost=cost,
        seconds=seconds,
        shares=shares,
    )


def _without(statuses: Mapping[str, str], damaged: Sequence[Damage]) -> dict[str, str]:
    """Statuses as they will be once the damaged files are set aside and their whole rows are written anew."""
    left = dict(statuses)
    for damage in damaged:
        left.pop(damage.file.trial_id, None)
    return left | {trial_id: status for damage in damaged for trial_id, status in damage.rescued.items()}


def _reasons(trials: Mapping[str, Trial]) -> dict[str, str]:
    """trial_id -> why it can't be run, for those that can't. Cells of a model, dataset and method share the answer."""
    known: dict[tuple[str | bool, ...], str | None] = {}
    answers: dict[str, str | None] = {}
    for trial_id, trial in trials.items():
        key = (
            trial.model,
            trial.dataset,
            trial.label,
            trial.protocol,
            trial.target,
            trial.strategy,
            trial.transfer,
            trial.shallower,
            trial.image_size is None,
        )
        if key not in known:
            known[key] = why_not(trial)
        answers[trial_id] = known[key]
    return {trial_id: reason for trial_id, reason in answers.items() if reason}


def why_not(trial: Trial) -> str | None:
    """Why this cell can't be run, as far as is known without building the model; None if it can be tried."""
    model = registry.model.entries().get(trial.model)
    facts = model.facts if model else {}
    dataset = registry.dataset.entry(trial.dataset)
    task = dataset.facts.get("task", "classification")
    if facts.get("task", task) != task:
        return f"{trial.model} is a model for {facts['task']}, {trial.dataset} is data for {task}"
    if why := _no_method(trial, task, facts.get("norm")):
        return why
    if trial.is_small and (trial.target in TIMED or trial.ratio is not None or trial.protocol == "pruningbench"):
        return "small is a dense network of the nearest MACs or parameters, under protocol raybench"
    if trial.from_scratch and REPAIR in trial.importance.params:
        return f"{REPAIR} refits the weights that are kept; a network from scratch has new ones"
    if trial.is_small and not has_family(trial.model):
        return f"small: no family of smaller networks is known for {trial.model}"
    if trial.importance.trained and (trial.target != "macs" or trial.strategy in KNAPSACKS):
        found = f"strategy {trial.strategy}" if trial.strategy in KNAPSACKS else f"a target in {trial.target}"
        return f"{trial.importance.name} chooses channels while it trains, by a ranking to a speed-up; found {found}"
    if trial.prunes_first and (why := _needs_source(trial)):
        return f"prune-then-transfer chooses channels by the source's weights alone; {why}"
    if trial.strategy in REMOVES_BLOCKS and trial.is_small:
        name = trial.importance.name
        return f"strategy {trial.strategy} chooses blocks; {name} is a dense network in place of a pruned one"
    if trial.shallower and (why := _no_blocks(trial)):
        return f"a depth removes blocks before channels are ranked; {why}"
    if trial.image_size is not None and (why := _no_size(trial)):
        return f"an image size counts towards the target before channels are ranked; {why}"
    return _no_tokens(trial, facts) if trial.kind == TOKENS else None


def _no_method(trial: Trial, task: str, norm: str | None) -> str | None:
    """Why criterion or regularizer can't work on data for `task` in a network of this `norm` (None: unknown)."""
    methods = [registry.CHOICE.entry(trial.importance.name)]
    if trial.regularizer:
        methods.append(registry.regularizer.entry(trial.regularizer.name))
    for method in methods:
        if method.facts.get("labels") == "sampled" and task != "classification":
            return f"{method.noun} {method.name} draws labels from class scores; {trial.dataset} is data for {task}"
        if (wanted := method.facts.get("task") or task) != task:
            return f"{method.noun} {method.name} is for {wanted}; {trial.dataset} is data for {task}"
        if method.facts.get("requires") == "batch-norm" and norm not in (None, "batch"):
            has = "has no normalisation" if norm == "none" else f"normalises with {norm} norm"
            return f"{method.noun} {method.name} needs BatchNorm; {trial.model} {has}"
    return None


def _no_blocks(trial: Trial) -> str | None:
    """Why no block can be removed in this cell; None if it can be tried."""
    return _unchanged(
        trial,
        "protocol pruningbench removes channels alone",
        "while the whole network trains",
        "blocks are ranked on images, which the source's weights are without",
    )


def _no_size(trial: Trial) -> str | None:
    """Why images can't have another size in this cell; None if it can be tried."""
    return _unchanged(
        trial,
        "protocol pruningbench keeps the dataset's own",
        "while it trains at the dataset's own size",
        "prune-then-transfer chooses channels by the source's weights",
    ) or no_size(registry.dataset.entry(trial.dataset), trial.dataset_params)


def _unchanged(trial: Trial, published: str, trained: str, source: str) -> str | None:
    """Why a cell's network can't be changed before its channels are ranked; None if it can.

    Args:
        trial: the cell.
        published: the reason under protocol pruningbench.
        trained: when a trained selection chooses.
        source: the reason where the source of a transfer is pruned.
    """
    name = trial.importance.name
    if trial.protocol == "pruningbench":
        return published
    if trial.kind == TOKENS:
        return f"{name} removes tokens"
    if trial.importance.trained:
        return f"{name} chooses channels {trained}"
    if trial.is_small:
        return f"{name} is a dense network in place of a pruned one"
    return source if trial.prunes_first else None


def _needs_source(trial: Trial) -> str | None:
    """What of a method would need the images that the source was trained on; None for what needs weights alone."""
    name = trial.importance.name
    if trial.regularizer or trial.importance.trained:
        return f"{trial.method} trains before the cut"
    if trial.kind == TOKENS or trial.is_small or trial.from_scratch:
        return f"{trial.method} keeps no channels of it"
    return f"{name} looks at images" if reads_images(registry.importance.entry(name), trial.importance.params) else None


def _no_tokens(trial: Trial, facts: Mapping[str, Any]) -> str | None:
    """Why tokens can't be removed in this cell; None if it can be tried."""
    name = trial.importance.name
    if facts.get("attention") is False:
        return f"{name} removes tokens of vision transformers; {trial.model} has none"
    if trial.protocol == "pruningbench":
        return f"protocol pruningbench has no method that removes tokens, such as {name}"
    if trial.speedup_target is None:
        return f"{name} removes tokens, which only speed-ups in MACs are asked of"
    return None


def _timings(timed: Storage | None, finished: Mapping[str, str]) -> Timings:
    """Mean seconds of finished units; empty where nothing was ever run."""
    return Store(timed).timings() if timed and (finished or Store(timed).statuses()) else {}


def _published(storage: Storage | None) -> frozenset[str]:
    """Keys of the cached stages, from one listing of the storage. One that is not complete is listed file by file."""
    names = [name.split("/") for name in storage.list("stages/")] if storage else []
    return frozenset(parts[1] for parts in names if len(parts) == 2)


def _units(cells: Mapping[str, Trial], published: frozenset[str]) -> tuple[Unit, ...]:
    """The stages that are not cached and the cells, ordered by kind: bases, sparsifyings, selections, cells."""
    bases: dict[str, list[Trial]] = {}
    sparsifyings: dict[str, list[Trial]] = {}
    passes: dict[str, dict[str, Trial]] = {}
    keys: dict[str, tuple[str, str | None, str, str]] = {}
    for trial_id, trial in cells.items():
        base, sparsify, cut, pass_key = trial.base_key, trial.sparsify_key, trial.select_key, trial.pass_key
        keys[trial_id] = base, sparsify, cut, pass_key
        if base not in published:
            source = trial.weights.source  # trained before, on other data
            if source is not None and source.base_key not in published:
                bases.setdefault(source.base_key, []).append(source)
            bases.setdefault(base, []).append(trial)
        if sparsify and sparsify not in published:
            sparsifyings.setdefault(sparsify, []).append(trial)
        if cut not in published:
            passes.setdefault(pass_key, {}).setdefault(cut, trial)
    selects = {pass_key: digest("pass", sorted(cuts)) for pass_key, cuts in passes.items()}
    units = [Unit(key, "base", tuple(trials), _if_planned(bases, _source(trials[0]))) for key, trials in bases.items()]
    for key, trials in sparsifyings.items():
        units.append(Unit(key, "sparsify", tuple(trials), _if_planned(bases, trials[0].base_key)))
    for pass_key, cuts in passes.items():
        served = tuple(sorted(cuts.values(), key=lambda trial: trial.speedup))
        base, sparsify, _, _ = keys[served[0].trial_id]
        needs = _if_planned(bases, base) + _if_planned(sparsifyings, sparsify)
        units.append(Unit(selects[pass_key], "select", served, needs))
    for trial_id, trial in cells.items():
        base, sparsify, cut, pass_key = keys[trial_id]
        needs = _if_planned(bases, base) + _if_planned(sparsifyings, sparsify)
        if cut in passes.get(pass_key, {}):
            needs += (selects[pass_key],)
        units.append(Unit(trial_id, "cell", (trial,), needs))
    return tuple(units)


def _with_recipes(units: tuple[Unit, ...], trials: Sequence[Trial]) -> tuple[Unit, ...]:
    """`units` with the recipe that tells them apart from others, where `trials` have several."""
    if len({trial.recipe.name for trial in trials}) < 2:
        return units
    served: dict[str | None, set[str]] = {}  # key of a stage or a cell -> recipes of the trials that need it
    for trial in trials:
        for key in (trial.base_key, trial.sparsify_key, trial.pass_key, trial.trial_id):
            served.setdefault(key, set()).add(trial.recipe.name)
    keys = [unit.trials[0].pass_key if unit.kind == "select" else unit.key for unit in units]
    names = [served.get(key, set()) for key in keys]
    return tuple(
        replace(unit, recipe=next(iter(of_unit))) if len(of_unit) == 1 else unit
        for unit, of_unit in zip(units, names, strict=True)
    )


def _source(trial: Trial) -> str | None:
    """Key of the base stage whose weights the trial's base starts from, if any."""
    return trial.weights.identity if trial.weights.kind == STAGE else None


def _if_planned(planned: Mapping[str, Sequence[Trial]], key: str | None) -> tuple[str, ...]:
    """`key` as one dependency if its stage is planned, else none."""
    return (key,) if key is not None and key in planned else ()
