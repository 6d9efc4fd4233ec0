"""Several processes for a cell: what a sweep may say, ids, what each process gets, and what a team's end counts as."""

import asyncio
import faulthandler
import sys
import threading
import time
import types
from typing import ClassVar

import pytest
import yaml
from pydantic import ValidationError

from raybench.cli.main import main
from raybench.errors import SpecError, UserError
from raybench.execution import teams
from raybench.execution.capacity import concurrency, slots
from raybench.execution.causes import DIED, MEMORY
from raybench.execution.grants import Grant, granted
from raybench.execution.limits import limited, own_this_process
from raybench.execution.mailbox import Box
from raybench.execution.message import encode_grant, encode_outcome, encode_unit
from raybench.execution.team_work import Ended, PeerFailed, portable, stopped_by
from raybench.execution.teams import TeamFailed, Teams, reason_of
from raybench.execution.worker import Assignment
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import identity
from raybench.storage.local import LocalStorage
from raybench.sweep.resolve import resolve
from raybench.sweep.resources import Resources
from raybench.tasks.training.team import PeerLost
from tests.cluster.fakes import unit
from tests.unit.sweeps import sweep


@pytest.mark.parametrize(
    ("said", "team"),
    [({}, 1), ({"gpus": 0.5}, 1), ({"gpus": 1}, 1), ({"gpus": "auto"}, 1), ({"gpus": 4}, 4), ({"processes": 2}, 2),
     ({"gpus": 4, "processes": 4}, 4), ({"gpus": 0.5, "processes": 1}, 1)],
)  # fmt: skip
def test_a_team_has_one_process_a_gpu(said, team):
    assert Resources(**said).team == team


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"gpus": 1.5}, "found 1.5, expected 0 to 1 or a whole number"),
        ({"gpus": 4, "processes": 2}, "found 2 beside gpus: 4, expected 4 or none"),
        ({"gpus": 0.5, "processes": 2}, "found 2 beside gpus: 0.5, expected 1 or none"),
        ({"gpus": "auto", "processes": 2}, "found 2 beside gpus: auto, expected 1 or none"),
        ({"processes": 2, "models": {"a": {"gpus": 3}}}, "found 2 beside gpus: 3, expected 3 or none"),
        ({"processes": 0}, "greater than or equal to 1"),
        ({"gpus": 5000}, "less than or equal to 1024"),
    ],
)
def test_contradictions_are_refused(said, message):
    with pytest.raises(ValidationError, match=message):
        Resources(**said)


def test_each_process_has_an_equal_part():
    grant = granted(Resources(cpus=8, gpus=4, memory=10))
    assert (grant.demand, grant.processes) == ({"CPU": 2.0, "GPU": 1.0, "memory": 3.0}, 4)
    assert granted(Resources(cpus=8)).demand == {"CPU": 8.0}
    assert granted(Resources(cpus=2, processes=2)).shape != granted(Resources(cpus=1)).shape


def test_only_more_than_one_process_is_in_ids_and_keys():
    fixed = {"threads": 1, "device": "cpu"}
    (plain, *_), (one, *_), (two, *_), (four, *_) = (
        resolve(sweep(resources=resources, **fixed))
        for resources in ({}, {"processes": 1}, {"processes": 2}, {"gpus": 4})
    )
    assert plain.trial_id == one.trial_id
    assert "processes" not in plain.model_dump(mode="json")
    assert len({one.trial_id, two.trial_id, four.trial_id}) == len({one.base_key, two.base_key, four.base_key}) == 3
    assert (two.processes, identity(two)["processes"], identity(plain)["processes"]) == (2, 2, 1)


def test_threads_are_those_of_each_process_and_models_may_differ():
    resources = {"cpus": 8, "processes": 2, "models": {"test-vit": {"processes": 1}}}
    found = {one.model: (one.processes, one.threads) for one in resolve(sweep(resources=resources))}
    assert found == {"test-vit": (1, 8), "test-convnet": (2, 4)}


@pytest.mark.parametrize(("device", "expected"), [("cpu", "processes"), ("cuda", "gpus")])
def test_the_sweep_that_show_prints_makes_the_same_trial(device, expected):
    (trial, *_) = resolve(sweep(resources={"gpus": 3, "cpus": 3}, device=device))
    printed = yaml.safe_load(sweep_of(identity(trial)["trial"]))
    assert printed["resources"] == {"cpus": 3, expected: 3}


def test_detectors_take_several_processes_but_for_those_that_draw_for_whole_batches():
    found = resolve(sweep(models="test-detector", datasets="digits-detection", resources={"processes": 2}))
    assert {one.processes for one in found} == {2}
    with pytest.raises(SpecError, match="found 2 processes for a cell of rtdetr-l, expected 1: it trains with noisy"):
        resolve(sweep(models="rtdetr-l", datasets="digits-detection", resources={"processes": 2}))


def test_local_refuses_a_sweep_of_several_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = {"name": "r", "base": {"epochs": 1, "lr": 0.1}, "finetune": {"epochs": 1, "lr": 0.1}}
    axes = {"name": "s", "datasets": "digits", "models": "test-convnet", "methods": "random", "speedups": 2}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(axes | {"recipe": recipe, "resources": {"processes": 2}}))
    assert main(["run", "s.yaml", "--local", "--storage", "r"]) == 2
    said = capsys.readouterr().err
    assert "--local: found 2 processes for a cell of test-convnet (resources: gpus or processes), expected 1" in said
    assert "Leave --local out" in said
    assert not list(tmp_path.glob("r/*"))


def test_the_end_of_a_team_is_what_failed_first():
    assert reason_of({0: Ended(), 1: PeerFailed("x", "y")}, 2) is None
    later = reason_of({0: PeerLost("gone"), 2: PeerFailed("ValueError: no", "ValueError")}, 3)
    assert (later.reason, later.as_cause().name, later.as_cause().starts) == (
        "process 3 of 3: ValueError: no", "ValueError", 1,
    )  # fmt: skip
    died = reason_of({1: RuntimeError("first line\nThe actor died")}, 2)
    assert died.reason == "process 2 of 2 died (RuntimeError: The actor died)"
    assert died.as_cause() is DIED
    memory = portable(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert reason_of({1: memory}, 2).as_cause() is MEMORY
    assert reason_of({-1: RuntimeError("no controller")}, 2).reason.startswith("the processes of the cell died")


def test_a_cluster_holds_as_many_units_as_its_nodes_hold_processes(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"GPU": 2.0}}, {"Alive": True, "Resources": {"GPU": 3.0}}]
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=lambda: nodes))
    assert [slots({"GPU": 1.0}, count) for count in (1, 2, 4, 5, 6)] == [5, 2, 1, 1, 1]
    assert [concurrency({"GPU": 1.0}, None, count) for count in (1, 2, 5)] == [10, 2, 1]
    with pytest.raises(UserError, match="found 1 GPU for each of 6 processes of a cell; expected what the nodes have"):
        concurrency({"GPU": 1.0}, None, 6)


def test_outside_of_the_main_thread_a_hanging_stage_ends_its_process(monkeypatch):
    """Ray Train runs units in a thread, which no signal reaches."""
    seen = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, exit, file: seen.append((seconds, exit)))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: seen.append("over"))
    monkeypatch.setattr("raybench.execution.limits._owned", threading.Event())

    def unit():
        with limited({"base": 600.0}) as begin:
            begin("base")

    for _ in range(2):
        thread = threading.Thread(target=unit)
        thread.start()
        thread.join()
        before, seen[:] = list(seen), []
        own_this_process()
    assert before == ["over", (620.0, True), "over"]


def test_a_stop_reaches_the_thread_in_which_the_first_process_runs_its_units(tmp_path):
    storage, heard = LocalStorage(tmp_path), []

    def unit():
        try:
            with stopped_by(storage.url, "stops/x"):
                while True:
                    time.sleep(0.01)
        except KeyboardInterrupt:
            heard.append("stopped")

    thread = threading.Thread(target=unit, daemon=True)
    thread.start()
    storage.create("stops/x", b"")
    thread.join(30)
    assert heard == ["stopped"]


class Scripted:
    """A team whose processes do with each unit what a script says: an outcome, `dies`, `hangs`, or not taken."""

    made: ClassVar[list] = []
    script: ClassVar[list] = []

    def __init__(self, assignment, grant, device, stop_key):
        self.grant, self.over, self.closed, self.given = grant, False, False, None
        self.made.append(self)

    def put(self, given):
        self.given = given
        if self.script[0] == "dies before it takes a unit":
            self.over = True
        return not self.closed

    def outcome(self, wait_s):
        if self.over or self.script[0] == "hangs":
            return None
        if (said := self.script.pop(0)) == "dies":
            self.over, self.given = True, None
            return None
        self.closed = said == "last"
        return encode_outcome(None) if said == "interrupted" else said

    def close(self):
        if self.given and self.over:
            self.given = self.script.pop(0) and None
            return True
        return False

    def join(self, wait_s):
        self.over = True

    def reason(self):
        return TeamFailed("process 2 of 2: it failed", "ValueError")


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """(Teams with scripted teams, the storage, their script, the teams that were made, runs a unit with a grant)."""
    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(teams, "LET_GO_S", 0.1)
    monkeypatch.setattr(teams, "Team", Scripted)
    monkeypatch.setattr(Scripted, "made", [])
    monkeypatch.setattr(Scripted, "script", [])
    own = Teams(Assignment(storage.url), "stops/x")

    def run(said, grant=None):
        Scripted.script.append(said)
        return own.run(encode_unit(unit("cell-a-0")), encode_grant(grant or Grant(processes=2)))

    return run, storage, Scripted.made


def test_a_team_takes_unit_after_unit_that_ask_for_the_same(scripted):
    run, _, made = scripted
    assert [run("one"), run("two")] == ["one", "two"]
    assert len(made) == 1
    run("three", Grant(processes=2, note="another note"))
    assert len(made) == 1, "a note is no resource"
    run("four", Grant(processes=2, cpus=2.0))
    assert [team.grant.cpus for team in made] == [1.0, 2.0]
    assert [team.over for team in made] == [True, False], "the first one lets go of what it holds"


def test_after_a_failure_in_the_middle_the_next_unit_gets_a_new_team(scripted):
    run, _, made = scripted
    assert [run("last"), run("next")] == ["last", "next"]
    assert len(made) == 2


def test_a_team_that_dies_fails_its_unit_and_no_other(scripted):
    run, _, made = scripted
    with pytest.raises(TeamFailed, match="it failed"):
        run("dies")
    assert run("next") == "next"
    Scripted.script.append("dies before it takes a unit")
    assert run("after") == "after", "a team that dies between two units costs none of them an attempt"
    assert len(made) == 3


@pytest.mark.parametrize("end", ["interrupted", "hangs"])
def test_a_stop_ends_the_wait_for_a_team(scripted, end):
    run, storage, _ = scripted
    storage.create("stops/x", b"")
    assert run(end) is None


def test_a_box_says_what_its_unit_waits_for():
    given = encode_unit(unit("cell-a-0")), "grant"

    async def seen():
        box = Box(60.0)
        await box.put(given)
        yield await box.waits("cell-b-0", 2)
        yield await box.waits("cell-a-0", 2)
        await box.say(1, "8 on h", True)
        yield await box.waits("cell-a-0", 2)
        await box.say(0, "7 on h", False)
        yield await box.waits("cell-a-0", 2)
        await box.say(0, "7 on h", True)
        yield await box.waits("cell-a-0", 2)
        await box.take()
        yield await box.waits("cell-a-0", 2)

    async def everything():
        return [words async for words in seen()]

    first = "waiting for process 1 of 2 (7 on h) to "
    assert asyncio.run(everything()) == [
        "", "waiting for 2 of 2 processes to start", "waiting for 1 of 2 processes to start",
        f"{first}import what units need", f"{first}take it", f"{first}begin its first stage",
    ]  # fmt: skip


def test_a_box_gives_no_unit_to_processes_that_have_ended():
    async def idle():
        box = Box(0.01)
        return await box.take(), await box.put(("unit", "grant"))

    async def at_work():
        box = Box(60.0)
        assert await box.put(("unit", "grant"))
        seen = [await box.take()]
        await box.answer("said", last=True)
        seen += [await box.put(("another", "grant")), await box.outcome(1.0), await box.outcome(0.0)]
        return [*seen, await box.close(), await box.take()]

    async def closed():
        box = Box(60.0)
        await box.put(("unit", "grant"))
        return [await box.close(), await box.take(), await box.put(("another", "grant"))]

    assert asyncio.run(idle()) == (None, False)
    assert asyncio.run(at_work()) == [("unit", "grant"), False, "said", None, False, None]
    assert asyncio.run(closed()) == [True, None, False]
