"""Several processes for a cell: what a sweep may say, ids, what each process gets, and what a team's end counts as."""

import faulthandler
import sys
import threading
import time
import types

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
from raybench.execution.teams import (
    Ended,
    PeerFailed,
    TeamFailed,
    _outcomes_or_reason,
    _portable,
    _stopped_by,
    run_together,
)
from raybench.execution.worker import Assignment
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import identity
from raybench.storage.local import LocalStorage
from raybench.sweep.resolve import resolve
from raybench.sweep.resources import Resources
from raybench.tasks.training.team import PeerLost
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


def test_detection_on_several_devices_is_refused_by_name():
    with pytest.raises(SpecError, match="found 2 processes for a cell of test-detector, expected 1: detection trains"):
        resolve(sweep(models="test-detector", datasets="digits-detection", resources={"processes": 2}))


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
    assert _outcomes_or_reason({0: Ended(["a"]), 1: PeerFailed("x", "y")}, 2) == ["a"]
    later = _outcomes_or_reason({0: PeerLost("gone"), 2: PeerFailed("ValueError: no", "ValueError")}, 3)
    assert (later.reason, later.as_cause().name, later.as_cause().starts) == (
        "process 3 of 3: ValueError: no", "ValueError", 1,
    )  # fmt: skip
    died = _outcomes_or_reason({1: RuntimeError("first line\nThe actor died")}, 2)
    assert died.reason == "process 2 of 2 died (RuntimeError: The actor died)"
    assert died.as_cause() is DIED
    memory = _portable(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert _outcomes_or_reason({1: memory}, 2).as_cause() is MEMORY
    assert _outcomes_or_reason({-1: RuntimeError("no controller")}, 2).reason.startswith(
        "the processes of the cell died"
    )


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
            with _stopped_by(storage.url, "stops/x"):
                while True:
                    time.sleep(0.01)
        except KeyboardInterrupt:
            heard.append("stopped")

    thread = threading.Thread(target=unit, daemon=True)
    thread.start()
    storage.create("stops/x", b"")
    thread.join(30)
    assert heard == ["stopped"]


@pytest.mark.parametrize("end", [["outcome"], TeamFailed("process 2 of 2: it failed", "ValueError"), "hangs"])
def test_the_trial_waits_for_its_team_but_not_after_a_stop(tmp_path, monkeypatch, end):
    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(teams, "LET_GO_S", 0.1)
    monkeypatch.setattr(teams, "_fitted", lambda *given: time.sleep(60) if end == "hangs" else end)
    given = (["unit"], Grant(processes=2), Assignment(storage.url), "stops/x")
    if isinstance(end, TeamFailed):
        with pytest.raises(TeamFailed, match="it failed"):
            run_together(*given)
        return
    storage.create("stops/x", b"")
    assert run_together(*given) == ([] if end == "hangs" else end)
