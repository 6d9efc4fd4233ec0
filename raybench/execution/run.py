"""A sweep from its plan to its end: planned, checked, and run on Ray or in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raybench import registry
from raybench.errors import UserError
from raybench.execution.checking import check, checking
from raybench.execution.contact import contact
from raybench.execution.driver import Run, Watcher, drive
from raybench.execution.interrupt import interrupts
from raybench.execution.lengths import Work
from raybench.execution.supervised import supervised
from raybench.execution.worker import Assignment, device_of
from raybench.plan.only import only_cell
from raybench.plan.plan import plan_trials
from raybench.plan.records import Plan
from raybench.progress.outcome import Outcome
from raybench.results.repair import Repair
from raybench.storage.base import Storage
from raybench.storage.damage import collected_damage
from raybench.storage.open import check_writable, open_storage
from raybench.storage.patient import patient
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.resources import Resources
from raybench.sweep.sweep import Sweep
from raybench.sweep.trial import Trial


@dataclass(frozen=True)
class SweepEnd:
    """How a run of a sweep ended. The results themselves are in the storage.

    Attributes:
        storage: address of the storage.
        statuses: trial_id -> ok, skipped, failed, or missing when the run was interrupted.
        outcomes: unit key -> how it ended in this run.
        planned: units that this run found to do; 0: everything was there already.
        interrupted: whether Ctrl-C ended it; the same call continues.
        reasons: trial_id -> why it was skipped, as far as this run found out.

    Example:
        >>> SweepEnd("results", {"0123456789abcdef": "ok"}, {}, planned=2, interrupted=False).interrupted
        False
    """

    storage: str
    statuses: Mapping[str, str]
    outcomes: Mapping[str, Outcome]
    planned: int
    interrupted: bool
    reasons: Mapping[str, str] = field(default_factory=dict)


def run_sweep(
    sweep: Sweep | Path | str,
    storage: Path | str | None = None,
    *,
    local: bool = False,
    address: str | None = None,
    plugins: Sequence[Path | str] = (),
    only: str | None = None,
    retry_failed: bool = True,
    device: str | None = None,
    watcher: Watcher | None = None,
    cells: Sequence[Trial] | None = None,
) -> SweepEnd:
    """Run every cell of `sweep` that `storage` doesn't hold yet.

    Args:
        sweep: a sweep, or the file that describes it.
        storage: a folder, or the address of a bucket; None: what the sweep says, or ``results/NAME``.
        local: run in this process, one unit after the other, without Ray.
        address: a Ray cluster (``auto`` or HOST:PORT); None: start Ray on this machine.
        plugins: Python files that register methods, models or datasets.
        only: the trial_id (or its start) of the one cell to run, with the stages that it needs.
        retry_failed: whether cells that failed in earlier runs are tried again.
        device: as torch spells it, for `local` only; None: a GPU where the sweep's resources ask for one.
        watcher: what is called as units start and end; None: nothing is shown.
        cells: cells to run in place of the sweep's own, with its resources and settings.

    Returns:
        The status of every cell. A cell that fails is a row of the results, not an exception.

    Raises:
        UserError: the sweep, a dataset, weights or a network can't be used; nothing has run then.

    Example:
        >>> import tempfile, raybench
        >>> from pathlib import Path
        >>> axes = "{name: s, datasets: digits, models: test-vit, methods: bn-scale, speedups: 2, recipe: quick}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = Path(folder, "sweep.yaml").write_text(axes)
        ...     end = raybench.run_sweep(Path(folder, "sweep.yaml"), Path(folder, "results"), local=True)
        ...     frame = raybench.load_results(end.storage)
        >>> list(end.statuses.values()), frame["reason"][0]
        (['skipped'], 'criterion bn-scale needs BatchNorm; test-vit normalises with layer norm')
    """
    for file in plugins:
        registry.add_plugin(file)
    sweep = sweep if isinstance(sweep, Sweep) else load_sweep(sweep)
    place, watcher = open_storage(str(storage or sweep.storage or f"results/{sweep.name}")), watcher or Watcher()
    resources = sweep.resources.without_auto() if local else sweep.resources  # one unit at a time shares nothing
    trials = resolve(sweep) if cells is None else cells  # once: it hashes weights and looks at all data
    make_plan = _planner(trials, resources, place, watcher, retry_failed=retry_failed, only=only)
    assignment = Assignment(
        place.url,
        dict(sweep.data_roots),
        {Path(file).name: Path(file).read_bytes() for file in plugins},
        resources.cpus,
        float(resources.gpus),
        device,
        resources.timeout,
        mps="off" if local else resources.mps,
    )
    work = Run(patient(place, watcher.say), assignment, watcher, sweep=sweep.name, resources=resources)
    first = make_plan()
    with interrupts() as requests, requests.noted(work.note_interrupt):
        try:
            if not first.units:
                if any(first.stored.get(skip.trial.trial_id) != "skipped" for skip in first.skips):
                    check_writable(place)
                drive(work, make_plan, lambda run: None)
            elif local:
                supervised(
                    work, first, make_plan, lambda: _execute(work, first, make_plan, sweep, local=True, address=None)
                )
            else:
                _execute(work, first, make_plan, sweep, local=False, address=address)
        except KeyboardInterrupt:
            work.interrupted = True
        except Exception:  # after Ctrl-C libraries turn it into errors of any kind; `interrupted` reports it
            if not work.interrupted:
                raise
        requests.heard()
        left = make_plan()
    statuses = {trial.trial_id: left.stored.get(trial.trial_id, "missing") for trial in left.trials}
    outcomes = dict(work.outcomes)
    reasons = {skip.trial.trial_id: skip.reason for skip in left.skips}
    reasons |= {key: one.error_message for key, one in outcomes.items() if one.status == "skipped" and key in statuses}
    return SweepEnd(place.url, statuses, outcomes, len(first.units), work.interrupted, reasons)


def _planner(
    trials: Sequence[Trial], resources: Resources, storage: Storage, watcher: Watcher, *, retry_failed: bool,
    only: str | None,
) -> Callable[[], Plan]:  # fmt: skip
    """A function that plans what `storage` lacks. It sets aside what is damaged there, and tells the `watcher`."""
    repair = Repair(storage)

    def planned() -> Plan:
        return plan_trials(trials, resources, storage, retry_failed=retry_failed)

    def make_plan() -> Plan:
        whole = planned()
        with collected_damage() as lines:
            damaged = repair.run(whole.trials)
        for line in lines:
            watcher.say(line)
        if damaged:
            whole = planned()
        return only_cell(whole, only) if only else whole

    return make_plan


def _refuse_teams(plan: Plan) -> None:
    """UserError where several processes train a cell: this one runs units by itself."""
    for trial in (unit.trials[0] for unit in plan.units):
        if trial.processes > 1:
            found = f"found {trial.processes} processes for a cell of {trial.model} (resources: gpus or processes)"
            raise UserError(
                f"--local: {found}, expected 1. Leave --local out: Ray starts them on this machine, without a cluster. "
                "With one process the cells have other ids"
            )


def _execute(
    work: Run, first: Plan, make_plan: Callable[[], Plan], sweep: Sweep, *, local: bool, address: str | None
) -> None:
    """Check what the run is about to read, then hand the work to this process or to Ray."""
    if local:
        _refuse_teams(first)
        for kind in {unit.trials[0].device for unit in first.units}:
            device_of(work.assignment, kind)  # before anything is written
    check_writable(work.storage)
    if local:
        from raybench.execution.local import fit

        work.watcher.checking()
        work.work = check(work, first.units)
        drive(work, make_plan, fit)
    elif address:  # a cluster's workers have data and weights that this machine may lack
        _drive_ray(work, make_plan, sweep, address, dict)
    else:
        with checking(work, first.units) as checked:
            _drive_ray(work, make_plan, sweep, None, checked)


def _drive_ray(
    work: Run, make_plan: Callable[[], Plan], sweep: Sweep, address: str | None, checked: Callable[[], Work]
) -> None:
    """Start Ray or join a cluster, and hand it the work once `checked` has returned."""
    from raybench.execution.cluster import connected, is_connected

    if not is_connected():
        work.watcher.say(f"joining the Ray cluster {address}" if address else "starting Ray on this machine")
    with connected(address) as head, interrupts() as requests, contact(head, address, work.watcher.say, requests.fail):
        from raybench.execution.tune import executor

        fit = executor(sweep.resources, address)
        work.work = checked()
        drive(work, make_plan, fit)
