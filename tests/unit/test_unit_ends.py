"""How a unit of a plan ends, whatever is raised in it: its outcome, its entry in the journal, its row, its lease."""

from __future__ import annotations

import warnings
from bdb import BdbQuit

import pytest
import torch

from raybench.errors import NotSupported, StageError, StageLost
from raybench.pauses import pause, paused_s
from raybench.pipeline import unit
from raybench.pipeline.context import StageContext
from raybench.pipeline.exclusive import Machine
from raybench.plan.records import Unit
from raybench.progress.journal import read_journal
from raybench.progress.outcome import Outcome
from raybench.results.store import Store
from raybench.storage.damage import set_aside
from raybench.storage.leases import Fenced, Lease, LeaseLost
from raybench.storage.local import LocalStorage
from raybench.tasks.training.team import PeerLost
from tests.unit.result_rows import trial


@pytest.fixture
def context(tmp_path) -> StageContext:
    return StageContext(LocalStorage(tmp_path / "store"), machine=Machine(tmp_path / "locks"), share_note="why")


def ended(monkeypatch, context, error, kind="cell", stage="finetune", during=None) -> tuple[Outcome, dict]:
    """(outcome, journal) of a unit in which `error` is raised in `stage`."""
    one = Unit(trial().trial_id if kind == "cell" else "k", kind, (trial(),))

    def run(given, fenced, announce, note) -> dict:
        if stage:
            announce(stage)
        if during:
            during(fenced)
        if error:
            raise error
        return {"top1": 1.0}

    monkeypatch.setattr(unit, "RUN", {kind: run})
    monkeypatch.setattr(unit, "check_variables", lambda *args: None)
    try:
        found = unit.run_unit(one, context)
    finally:
        assert not Lease(context.storage, one.key).taken
    (entry,) = read_journal(context.storage, one.key)
    return found, entry


def test_a_unit_that_ends_well_has_its_figures(monkeypatch, context) -> None:
    found, entry = ended(monkeypatch, context, None)
    key = trial().trial_id
    assert found == Outcome(key, "cell", "ok", "finetune", seconds=found.seconds, summary={"top1": 1.0})
    assert found.seconds > 0
    shown = {name: entry[name] for name in ("key", "kind", "label", "status", "summary")}
    assert shown == {
        "key": key, "kind": "cell", "label": "cifar-resnet20 magnitude-l2 2x protected-global seed 0", "status": "ok",
        "summary": {"top1": 1.0},
    }  # fmt: skip
    assert [stage["stage"] for stage in entry["stages"]] == ["finetune"]


@pytest.mark.parametrize(
    ("error", "status", "stage", "kind", "message"),
    [
        (ValueError("no"), "failed", "finetune", "ValueError", "no"),
        (ValueError(), "failed", "finetune", "ValueError", "ValueError"),
        (StageError("export", "other outputs"), "failed", "export", "StageError", "other outputs"),
        (StageError("", "other outputs"), "failed", "finetune", "StageError", "other outputs"),
        (SystemExit(3), "failed", "finetune", "SystemExit", "3"),
        (NotSupported("not for these"), "skipped", "finetune", "NotSupported", "not for these"),
    ],
)
def test_a_failure_is_an_outcome_an_entry_and_a_row(monkeypatch, context, error, status, stage, kind, message) -> None:
    found, entry = ended(monkeypatch, context, error)
    key = trial().trial_id
    path = found.traceback_path
    assert found == Outcome(
        key, "cell", status, stage, kind, message, path, found.seconds, share_note="why",
    )  # fmt: skip
    assert found.seconds > 0
    assert (entry["status"], entry["error"], entry["traceback"]) == (status, message, path)
    (row,) = Store(context.storage).table().to_pylist()
    if status == "skipped":
        assert path == ""
        assert (row["status"], row["reason"]) == ("skipped", message)
        return
    columns = ("status", "stage", "error_type", "error_message", "traceback_path", "share_note")
    assert [row[name] for name in columns] == ["failed", stage, kind, message, path, "why"]
    traceback = context.storage.read(path).decode()
    assert path.startswith(f"tracebacks/{key}-")
    assert path.endswith(".txt")
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.rstrip().splitlines()[-1].rpartition(".")[2].startswith(kind)
    assert "raise error" in traceback


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_stage_that_fails_has_no_row(monkeypatch, context, status) -> None:
    error = ValueError("no") if status == "failed" else NotSupported("no")
    found, _ = ended(monkeypatch, context, error, kind="select", stage="select")
    assert (found.key, found.kind, found.status, found.stage, found.error_message) == (
        "k", "select", status, "select", "no",
    )  # fmt: skip
    assert not Store(context.storage).statuses()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (LeaseLost("stood still"), Outcome("k", "base", "busy")),
        (StageLost("cache", "gone"), Outcome("k", "base", "again", "base", error_message="gone")),
    ],
)
def test_what_others_do_or_is_made_again_is_no_failure(monkeypatch, context, error, outcome) -> None:
    found, entry = ended(monkeypatch, context, error, kind="base", stage="base")
    assert found == outcome
    assert (entry["status"], entry["error"]) == ("interrupted", str(error))
    assert not context.storage.list("tracebacks/")


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None), (BdbQuit(), KeyboardInterrupt, None),
        (PeerLost("process 1 ended"), PeerLost, "process 1 ended"),
    ],
)  # fmt: skip
def test_what_ends_the_run_ends_its_units(monkeypatch, context, error, raised, message) -> None:
    with pytest.raises(raised):
        ended(monkeypatch, context, error)
    (entry,) = read_journal(context.storage)
    assert (entry["status"], entry.get("error")) == ("interrupted", message)
    assert not Store(context.storage).statuses()


def test_an_error_after_another_process_has_taken_over_is_not_ours(monkeypatch, context) -> None:
    monkeypatch.setattr(Lease, "still_held", lambda self: False)
    found, entry = ended(monkeypatch, context, ValueError("no"), kind="base", stage="base")
    assert found == Outcome("k", "base", "busy")
    assert (entry["status"], entry["error"]) == ("interrupted", "no")


def test_a_unit_writes_under_its_lease_and_knows_its_trial(monkeypatch, context) -> None:
    seen, asked = [], []
    one = Unit("k", "base", (trial(environment={"A": "1"}), trial(seed=1)))

    def run(given, fenced, announce, note) -> dict:
        note_of_stage = {"resumed_from": 3}
        announce("base")
        note(**note_of_stage)
        assert isinstance(fenced.storage, Fenced)
        assert Lease(context.storage, "k").taken
        seen.append((given, fenced.device, fenced.machine, fenced.share_note))
        return {}

    monkeypatch.setattr(unit, "RUN", {"base": run})
    monkeypatch.setattr(unit, "check_variables", lambda *args: asked.append(args))
    reported = []
    unit.run_unit(one, context, reported.append)
    assert seen == [(one, torch.device("cpu"), context.machine, "why")]
    assert asked == [({"A": "1"}, "cpu")]
    assert reported == ["base"]
    (entry,) = read_journal(context.storage, "k")
    assert [(stage["stage"], stage["resumed_from"]) for stage in entry["stages"]] == [("base", 3)]


def test_damage_that_a_unit_meets_is_in_its_outcome(monkeypatch, context) -> None:
    context.storage.create("stages/x", b"")
    found, _ = ended(
        monkeypatch, context, None, during=lambda fenced: set_aside(fenced.storage, "stages/x", "cut short")
    )
    (line,) = found.damage
    assert line.startswith("stages/x is damaged: cut short; it was set aside as damaged/stages/x-")


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_unit_gives_way_once_its_device_is_done(monkeypatch, tmp_path, kind) -> None:
    device, waited, said = torch.device(kind), [], []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    machine = Machine(tmp_path / "locks")
    machine.give_way = lambda before: said.append(before()) or 2.5
    context = StageContext(LocalStorage(tmp_path / "store"), device=device, machine=machine)
    seconds = []
    ended(monkeypatch, context, None, during=lambda fenced: (pause(), pause(), seconds.append(paused_s())))
    assert seconds == [5.0]
    assert waited == ([device] * 2 if kind == "cuda" else [])
    assert said == [None] * 2
    pause()
    assert len(said) == 2, "the unit is over"


def test_a_long_wait_for_the_machine_is_warned_of_and_in_the_journal(monkeypatch, context) -> None:
    def during(fenced) -> None:
        fenced.machine._notice("process 7 takes a timing")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, entry = ended(monkeypatch, context, None, during=during)
    assert [str(one.message) for one in caught] == ["waiting: process 7 takes a timing"]
    assert caught[0].filename == __file__
    assert [stage["stage"] for stage in entry["stages"]] == ["finetune", "waiting: process 7 takes a timing"]
