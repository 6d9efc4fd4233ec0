"""Runs one unit of a plan under its lease: a shared stage or a cell. Failures become outcomes and rows."""

from __future__ import annotations

import time
import warnings
from bdb import BdbQuit
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal

import torch

from raybench.error_text import message_of, name_of, traceback_of
from raybench.errors import NotSupported, StageError, StageLost
from raybench.pauses import pausing
from raybench.pipeline import patches
from raybench.pipeline.context import StageContext
from raybench.pipeline.trial import RUN, Announce
from raybench.plan.records import Unit
from raybench.progress.journal import WAITING, Execution
from raybench.progress.outcome import Outcome, is_done, label_of, settle
from raybench.results.store import Store
from raybench.storage.damage import collected_damage
from raybench.storage.leases import Fenced, Lease, LeaseLost
from raybench.sweep.environment import check_variables
from raybench.tasks.training.team import PeerLost


def run_unit(
    unit: Unit,
    context: StageContext,
    report: Announce = lambda stage: None,
    asked: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Run one unit of a plan under its lease. A failure is an outcome (and for a cell a row), never an exception.

    Returns at once with status "busy" when another driver holds the lease, so that no device is held while waiting.
    `report` is called with the name of each stage when it starts. `asked`: whether this process was asked to end; a
    KeyboardInterrupt that comes when it wasn't is the unit's own failure.
    """
    with collected_damage() as lines:
        outcome = _run(unit, context, report, asked)
    return replace(outcome, damage=tuple(lines))


def _run(unit: Unit, context: StageContext, report: Announce, asked: Callable[[], bool]) -> Outcome:
    lease = Lease(context.storage, unit.key)
    if not lease.acquire():
        return Outcome(unit.key, unit.kind, "busy")
    with ExitStack() as stack:
        stack.callback(lease.release)
        if is_done(unit, context.storage):  # by another driver, after this one had planned
            return Outcome(unit.key, unit.kind, "ok")
        execution = Execution(context.storage, unit.key, unit.kind, label_of(unit))
        machine = stack.enter_context(context.machine.computing(_waiting(execution)))
        stack.enter_context(pausing(lambda: machine.give_way(_finishing(context.device))))
        patches.remember()
        fenced = replace(context, storage=Fenced(context.storage, lease))
        try:
            check_variables(unit.trials[0].environment, context.device.type)
            summary = RUN[unit.kind](unit, fenced, _announce(execution, report), execution.note)
        except LeaseLost as error:
            execution.end("interrupted", error=str(error))
            return Outcome(unit.key, unit.kind, "busy")
        except StageLost as error:
            execution.end("interrupted", error=str(error))
            return Outcome(unit.key, unit.kind, "again", execution.stage_name, error_message=str(error))
        except NotSupported as error:
            return _ended(unit, context, execution, "skipped", error)
        except BdbQuit as error:  # `quit` in a debugger ends the run, as Ctrl-C does
            execution.end("interrupted")
            raise KeyboardInterrupt from error
        except PeerLost as error:  # the process that ended first says why, not this one
            execution.end("interrupted", error=str(error))
            raise
        except BaseException as error:  # a plug-in may raise SystemExit, which ends neither its process nor the run
            if isinstance(error, KeyboardInterrupt) and asked():
                execution.end("interrupted")
                raise
            if not lease.still_held():
                execution.end("interrupted", error=str(error))
                return Outcome(unit.key, unit.kind, "busy")
            return _ended(unit, context, execution, "failed", error)
        execution.end("ok", summary=dict(summary))
        return Outcome(unit.key, unit.kind, "ok", execution.stage_name, seconds=execution.seconds, summary=summary)


def _finishing(device: torch.device) -> Callable[[], None]:
    """Waits until `device` has done what it was given."""
    return lambda: torch.cuda.synchronize(device) if device.type == "cuda" else None


def _waiting(execution: Execution) -> Callable[[str], None]:
    """A callback that records in the journal what this unit waits for, and warns of it."""

    def waiting(text: str) -> None:
        execution.stage(f"{WAITING}{text}")
        warnings.warn(f"{WAITING}{text}", stacklevel=2)

    return waiting


def _announce(execution: Execution, report: Announce) -> Announce:
    """A callback that starts a stage in the journal and reports it."""

    def announce(stage: str) -> None:
        execution.stage(stage)
        report(stage)

    return announce


def _ended(
    unit: Unit, context: StageContext, execution: Execution, status: Literal["failed", "skipped"], error: BaseException
) -> Outcome:
    """The outcome of a failed or skipped unit, after recording it in the journal and, for a cell, as a row."""
    stage = (error.stage if isinstance(error, StageError) else "") or execution.stage_name
    kind = name_of(error)
    message = message_of(error) or kind
    path = ""
    if status == "failed":
        path = f"tracebacks/{unit.key}-{time.time_ns()}.txt"
        context.storage.create(path, traceback_of(error).encode())
    execution.end(status, error=message, traceback=path)
    outcome = Outcome(unit.key, unit.kind, status, stage, kind, message, path, execution.seconds)
    outcome = replace(outcome, share_note=context.share_note)
    if unit.kind == "cell":
        settle(outcome, unit.trials[0], Store(context.storage))
    return outcome
