"""How a process runs one unit, and the settings it needs. Shared by Ray's actors and ``--local``."""

from __future__ import annotations

import gc
import hashlib
import importlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.errors import UserError
from raybench.execution import mps
from raybench.execution.grants import Grant
from raybench.execution.heap import keep_freed
from raybench.execution.limits import limited
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.storage.open import open_storage
from raybench.storage.patient import patient

if TYPE_CHECKING:
    import torch

    from raybench.pipeline.exclusive import Machine
    from raybench.tasks.training.team import Peers

MODULE = "module"  # beside the kinds of registered names: the module of a model given as module:function


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker gets beside the unit. Plain data, as it may be sent to another machine."""

    storage: str  # address
    data_roots: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, bytes] = field(default_factory=dict)  # file name -> content
    cpus: float = 1.0
    gpus: float = 0.0
    device: str | None = None  # as torch spells it; None: a GPU if `gpus` > 0 and there is one
    timeouts: Mapping[str, float] = field(default_factory=dict)  # seconds of a stage, by its name
    share_note: str = ""  # why a unit has this share of a GPU
    mps: str = "off"  # whether processes that share a GPU come under NVIDIA MPS: off, on, auto

    def granting(self, grant: Grant) -> Assignment:
        """The assignment of a unit that gets `grant`."""
        return replace(self, cpus=grant.cpus, gpus=grant.gpus, timeouts=dict(grant.timeouts), share_note=grant.note)

    @property
    def threads(self) -> int:
        """Threads beside a GPU, where no number depends on them; on a CPU the trial says how many."""
        return max(1, int(self.cpus))


def preload() -> None:
    """Import what units need, before the first one runs.

    What the imports made lives as long as the process. The garbage collector no longer visits it: that took 0.2 s
    after each unit. From now on freed memory stays with the process while a unit runs.
    """
    from raybench.pipeline import unit  # noqa: F401

    keep_freed()
    gc.collect()
    gc.freeze()


def execute(
    unit: Unit,
    assignment: Assignment,
    report: Callable[[str], None] = lambda stage: None,
    team: Peers | None = None,
    asked: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Run one unit in this process, isolated from earlier ones. A failure is an outcome, not an exception.

    Args:
        unit: of the plan.
        assignment: of the run.
        report: called with the name of each stage when it starts.
        team: of several processes, of which this is the first.
        asked: whether this process was asked to end; else a KeyboardInterrupt is a plug-in's own.
    """
    from raybench.execution.isolation import isolated
    from raybench.pipeline.context import StageContext
    from raybench.pipeline.unit import run_unit
    from raybench.tasks.training.team import ALONE

    trial = unit.trials[0]
    # the copies that a probe starts inherit its daemon: what it measures is how the cells will run
    shared = trial.device == "cuda" and (0 < assignment.gpus < 1 or unit.kind == "probe")
    notes = assignment.share_note, _under_mps(assignment.mps) if shared else ""  # before anything uses the device
    context = StageContext(
        storage=patient(open_storage(assignment.storage)),
        device=device_of(assignment, trial.device),
        data_roots={name: Path(root) for name, root in assignment.data_roots.items()},
        machine=_machine(),
        cpus=assignment.cpus,
        share=(assignment.gpus or 1.0) if trial.device == "cuda" else None,
        share_note="; ".join(filter(None, notes)),
        team=team or ALONE,
    )
    threads = trial.threads or assignment.threads
    _import_plugged_in(unit, threads, asked)

    def begin(stage: str) -> None:
        limit(stage)
        report(stage)

    with isolated(unit.key, threads), limited(assignment.timeouts) as limit:
        return run_unit(unit, context, begin, asked)


def take_part_in(unit: Unit, assignment: Assignment, team: Peers, *, elsewhere: bool) -> None:
    """Train and evaluate with the first process of `team` what it trains and evaluates in `unit`, until that is over.

    `elsewhere`: on another machine than the first one, so that this one's lock is taken, too. On the same machine this
    process computes only while the first one does.
    """
    from raybench.execution.isolation import isolated
    from raybench.tasks.open import open_task
    from raybench.tasks.shared import take_part

    trial = unit.trials[0]
    seen = trial.at_own_size if unit.kind in ("base", "sparsify") else trial
    roots = {name: Path(root) for name, root in assignment.data_roots.items()}
    threads = trial.threads or assignment.threads
    _import_plugged_in(unit, threads)
    with isolated(unit.key, threads), _machine().computing() if elsewhere else nullcontext():
        device = device_of(assignment, trial.device)
        take_part(lambda: open_task(seen, roots, device, open_storage(assignment.storage), team), team)


def _import_plugged_in(unit: Unit, threads: int, asked: Callable[[], bool] = lambda: True) -> None:
    """Import what the unit uses of plug-ins. What an import sets reaches no unit, neither the first nor the last."""
    from raybench.execution.isolation import isolated

    for kind, name in _plugged_in(unit):
        with isolated(unit.key, threads):
            _import(kind, name, asked)


def _plugged_in(unit: Unit) -> list[tuple[str, str]]:
    """(kind, name) of what the unit uses of plug-in files and own modules that this process hasn't imported.

    A base uses no method: where the import of one ends the process, cells of other methods have their base.
    """
    from raybench import registry
    from raybench.sweep.modules import own_module

    trial = unit.trials[0]
    used = {"model": trial.model, "dataset": trial.dataset}
    if unit.kind != "base" and trial.regularizer:
        used["regularizer"] = trial.regularizer.name
    if trial.importance.trained and unit.kind != "base":
        used["selection"] = trial.importance.name
    elif unit.kind not in ("base", "sparsify"):
        used["importance"] = trial.importance.name
    kinds = {kind.kind: kind.entries() for kind in registry.KINDS}
    found = [(kind, name) for kind, name in used.items() if name in kinds[kind] and not kinds[kind][name].module]
    if module := own_module(trial.model):
        found.append((MODULE, module))
    return [one for one in found if one not in _imported]


def _import(kind: str, name: str, asked: Callable[[], bool]) -> None:
    """Import a plug-in or a module. What it raises, it raises again in the unit, whose row then says it."""
    from raybench import registry
    from raybench.sweep.modules import reach_current_folder

    _imported.add((kind, name))
    try:
        if kind == MODULE:
            reach_current_folder()
            importlib.import_module(name)
            return
        next(one for one in registry.KINDS if one.kind == kind).load(name)
    except BaseException as error:  # SystemExit, too
        if isinstance(error, KeyboardInterrupt) and asked():
            raise


_imported: set[tuple[str, str]] = set()


def install_plugins(plugins: Mapping[str, bytes]) -> None:
    """Register the names in the plug-in files (name -> content) in this process, once per content.

    For workers only: the driver has loaded the files themselves.
    """
    for name, content in plugins.items():
        _install(name, content)


@cache
def _install(name: str, content: bytes) -> None:
    from raybench import registry

    folder = Path(_plugin_folder().name) / hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(content)
    registry.add_plugin(file)


@cache
def _plugin_folder() -> tempfile.TemporaryDirectory:
    """Deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="raybench-plugins-")


@cache
def _under_mps(wanted: str) -> str:
    """Bring this process under MPS if it is `wanted`; a line for the row. UserError where it must be and can't."""
    return mps.join(wanted).note


@cache
def _machine() -> Machine:
    from raybench.pipeline.exclusive import Machine

    return Machine()


def device_of(assignment: Assignment, kind: str) -> torch.device:
    """The device that this process's units compute on.

    Args:
        assignment: may name one device of several, and says what share of a GPU a unit has.
        kind: `cpu` or `cuda`, as the trial was planned: its numbers depend on it.

    Raises:
        UserError: there is no such device here, or `assignment` names one of another kind.
    """
    import torch

    name = assignment.device or kind
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"device: {name!r} can't be used on this machine: {why}") from error
    if device.type != kind:
        raise UserError(f"device: found {name!r}, expected one of kind {kind!r}, for which the cells were planned")
    if device.type == "cuda":
        index = device.index or 0  # `cuda` has none, which set_per_process_memory_fraction refuses
        torch.cuda.set_device(index)  # streams, random states and graphs are those of the present device
        torch.cuda.set_per_process_memory_fraction(float(min(assignment.gpus or 1.0, 1.0)), index)
    return device
