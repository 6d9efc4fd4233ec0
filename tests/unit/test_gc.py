"""`raybench gc`: finds what killed processes left, shows it, and removes only that, and only when told."""

import json
import os
import time

import pytest

from raybench.cli.main import main
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.gc import find_garbage, remove
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import Lease, stamp
from raybench.storage.local import LocalStorage

DONE, RUNNING, STAGE, OTHER = "d" * 16, "e" * 16, "a" * 16, "b" * 16


@pytest.fixture
def storage(tmp_path):
    """One live and one dead lease, an old and a young unfinished write, four checkpoints, two stages."""
    storage = LocalStorage(tmp_path / "store")
    dead = {"owner": "x", "time": time.time() - 999, "ttl": 60, "machine": "elsewhere", "pid": 7, "started": "1"}
    storage.create(f"leases/{OTHER}/3", json.dumps(dead).encode())
    for stage in (STAGE, OTHER):
        folder = tmp_path / stage
        folder.mkdir()
        (folder / "result.json").write_text("{}")
        storage.publish(f"stages/{stage}", folder)
    for key in (DONE, RUNNING, STAGE, "f" * 16):
        StageCheckpoint(storage, key).save({"epoch": 1})
    for name, age in (("old", 5000), ("young", 10)):
        folder = storage.root / ".tmp" / name
        folder.mkdir(parents=True)
        (folder / "half").write_text("x")
        for path in (folder / "half", folder):
            os.utime(path, (time.time() - age,) * 2)
    return storage


def test_only_what_nobody_needs_is_found(storage):
    with Lease(storage, RUNNING) as lease:
        assert lease.held
        found = find_garbage(storage, finished=[DONE, RUNNING])
    assert [(one.kind, one.name) for one in found] == [
        ("lease", f"leases/{OTHER}/3"),
        ("unfinished write", "old"),
        ("checkpoint", f"checkpoints/{STAGE}/state.pt"),
        ("checkpoint", f"checkpoints/{DONE}/state.pt"),
    ]


def test_stop_signs_of_runs_that_are_over_go(storage):
    for run in ("alive", "killed", "unknown"):
        storage.create(f"stops/{run}", b"")
    facts = {"status": "running", "sweep": "s", "plan": "plans/p.json"}
    alive = Heartbeat(storage, "runs/alive.json", facts)
    alive.start()
    killed = json.dumps({**stamp(60), "time": time.time() - 999, "since_boot": stamp(60)["since_boot"] - 999, **facts})
    storage.create("runs/killed.json", killed.encode())
    found = [one.name for one in find_garbage(storage, []) if one.kind == "stop request"]
    assert found == ["stops/killed", "stops/unknown"]
    alive.stop(status="interrupted")
    assert "stops/alive" in [one.name for one in find_garbage(storage, [])]


def test_of_a_sweep_that_was_run_again_only_the_last_run_and_its_plan_stay(storage):
    def left(run, sweep, plan, age, status="ended"):
        storage.create(f"plans/{plan}.json", b"{}")
        clocks = {"time": time.time() - age, "since_boot": stamp(60)["since_boot"] - age}
        record = {**stamp(60), **clocks, "status": status, "sweep": sweep, "plan": f"plans/{plan}.json"}
        storage.create(f"runs/{run}.json", json.dumps(record).encode())

    left("first", "a", "old", 900)
    left("second", "a", "same", 800, "running")  # killed
    left("third", "a", "same", 700)
    left("only", "b", "other", 999)
    left("driving", "a", "new", 1, "running")
    left("beside", "a", "newest", 0)  # ended while `driving` goes on
    found = [(one.kind, one.name) for one in find_garbage(storage, []) if one.kind in ("run", "plan")]
    runs = [("run", f"runs/{name}.json") for name in ("first", "second", "third")]
    assert found == [*runs, ("plan", "plans/old.json"), ("plan", "plans/same.json")]


def test_stages_go_only_when_sweeps_say_which_are_needed(storage):
    assert not [one for one in find_garbage(storage, []) if one.kind == "stage"]
    found = [one.name for one in find_garbage(storage, [], needed=[STAGE]) if one.kind == "stage"]
    assert found == [f"stages/{OTHER}"]
    with Lease(storage, OTHER):  # takes the stale lease over: somebody builds or reads it
        assert not [one for one in find_garbage(storage, [], needed=[STAGE]) if one.kind == "stage"]


def test_removing_leaves_the_rest(storage):
    for garbage in find_garbage(storage, [DONE], needed=[STAGE]):
        remove(storage, garbage)
    assert find_garbage(storage, [DONE], needed=[STAGE]) == []
    assert storage.fetch(f"stages/{STAGE}")
    assert storage.has(f"checkpoints/{RUNNING}/state.pt")
    assert sorted(os.listdir(storage.root / ".tmp")) == ["young"]


def test_the_verb_touches_nothing_until_it_is_told_to(storage, capsys):
    arguments = ["gc", storage.url, "--format", "json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["found"]) == 3
    assert not first["removed"]
    assert main([*arguments, "--delete"]) == 0
    assert json.loads(capsys.readouterr().out) == {**first, "removed": True}
    assert main(["gc", storage.url]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_named_sweep_keeps_its_stages(storage, tmp_path, capsys):
    from raybench.sweep.reader import load_sweep
    from raybench.sweep.resolve import resolve

    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: magnitude-l1\nspeedups: 2\nrecipe: quick\n"
    )
    (trial,) = resolve(load_sweep(file))
    folder = tmp_path / "base"
    folder.mkdir()
    storage.publish(f"stages/{trial.base_key}", folder)
    assert main(["gc", storage.url, "--keep", str(file), "--format", "json"]) == 0
    found = [one["name"] for one in json.loads(capsys.readouterr().out)["found"] if one["kind"] == "stage"]
    assert found == [f"stages/{STAGE}", f"stages/{OTHER}"]
