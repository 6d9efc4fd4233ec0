"""Why a process died, and what follows: memory: once more, alone; a node that left: again; a hang: a failure."""

import time

import pytest
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError

from raybench.execution.causes import DIED, HUNG, MAX_ATTEMPTS, MAX_MOVES, MEMORY, NODE, cause_of, words_of
from raybench.execution.driver import Aborted, Run, drive
from raybench.execution.queue import UnitQueue
from raybench.execution.worker import Assignment
from raybench.progress.outcome import Outcome
from raybench.results.store import Store
from raybench.storage.local import LocalStorage

from .fakes import ok, plan, two_bases, unit
from .test_driver import Notes, execute_with, missing

KILLED = (
    "Worker unexpectedly exits: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop"
)


def wrapped(error):
    outer = RuntimeError("Caught unexpected exception")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(("error", "cause"), [
    (OutOfMemoryError("Task was killed due to the node running low on memory"), MEMORY),
    (wrapped(OutOfMemoryError("x")), MEMORY),
    (MemoryError(), MEMORY),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), MEMORY),
    (NodeDiedError("its node has died"), NODE),
    (RayActorError(error_msg="The actor is dead because its node has died. Node Id: 5e"), NODE),
    (ActorUnavailableError("RpcError: Socket closed", None), NODE),
    (RayActorError(error_msg=KILLED), DIED),
    (RuntimeError("anything"), DIED),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_errors_of_ray_and_what_they_mean(error, cause):
    assert cause_of(error) is cause


MONITOR = """Task was killed due to the node running low on memory.
Memory on the node (IP: 127.0.0.1, ID: 5e) was 22.37GB used / 23.54GB limit (0.950312), which exceeds the threshold.
Refer to the documentation. To adjust the kill threshold, set `RAY_memory_usage_threshold` when starting Ray."""


@pytest.mark.parametrize(("error", "words"), [
    (OutOfMemoryError(MONITOR), "Ray's memory monitor ended the process, as the machine's memory ran out: 22.37 of "
     "23.54 GB were in use"),
    (RuntimeError("x\nset `RAY_memory_usage_threshold`"), "Ray's memory monitor ended the process, as the machine's "
     "memory ran out"),
    (RuntimeError("one\n two \n"), "RuntimeError: two"),
    (RuntimeError(), "RuntimeError"),
])  # fmt: skip
def test_what_a_row_says_about_an_error_of_ray(error, words):
    assert words_of(error) == words


def test_a_preempted_actor_is_a_node_that_left():
    error = RayActorError("gone")
    error._preempted = True
    assert cause_of(error) is NODE


@pytest.mark.parametrize(("cause", "starts"), [(DIED, MAX_ATTEMPTS), (MEMORY, 2), (HUNG, 1), (NODE, MAX_MOVES)])
def test_how_often_a_unit_is_started(cause, starts):
    queue, begun, failure = UnitQueue(plan(unit("base-a"))), 0, None
    while failure is None:
        begun += bool(queue.take())
        failure = queue.lost("base-a", "it died", cause)
    assert begun == starts
    assert failure.error_type == cause.name
    assert queue.attempts["base-a"] == (0 if cause is NODE else starts)


def test_a_unit_that_lost_its_node_may_still_die_as_often_as_others():
    queue = UnitQueue(plan(unit("base-a")))
    for cause in [NODE, DIED, NODE, DIED, NODE]:
        queue.take()
        assert queue.lost("base-a", "it died", cause) is None
    queue.take()
    assert queue.lost("base-a", "it died", DIED) is not None


def test_after_memory_ran_out_a_unit_runs_alone():
    queue = UnitQueue(plan(*(unit(f"base-{name}") for name in "abcd")))
    first, second = queue.take(), queue.take()
    assert queue.lost(first.key, "no memory", MEMORY) is None
    third, fourth = queue.take(), queue.take()
    assert queue.take() is None, "it waits for the others"
    for one in (second, third, fourth):
        queue.end(ok(one))
    assert queue.take() is first
    assert queue.take() is None


def test_nothing_starts_beside_a_unit_that_runs_alone():
    queue = UnitQueue(plan(unit("base-a"), unit("base-b"), unit("cell-a", "base-b")))
    key = queue.take().key
    queue.lost(key, "no memory", MEMORY)
    other = queue.take()
    queue.end(ok(other))
    while queue.alone.isdisjoint(queue.running):
        queue.end(ok(queue.take())) if queue.running else queue.take()
    assert queue.take() is None


@pytest.fixture
def run(tmp_path):
    storage = LocalStorage(tmp_path)
    return Run(storage, Assignment(storage.url), Notes())


@pytest.mark.parametrize(("kind", "message"), [
    ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB"),
    ("RuntimeError", "DefaultCPUAllocator: can't allocate memory"), ("MemoryError", "MemoryError"),
])  # fmt: skip
@pytest.mark.parametrize("fits", [True, False])
def test_a_unit_that_found_no_memory_is_tried_once_more(run, kind, message, fits):
    starts = []

    def outcome_of(one):
        starts.append(one.key)
        if one.key != "cell-a-0" or (fits and starts.count(one.key) > 1):
            return ok(one)
        return Outcome(one.key, one.kind, "failed", "finetune", kind, message)

    drive(run, lambda: missing(run, two_bases()), execute_with(outcome_of))
    assert starts.count("cell-a-0") == 2
    assert run.outcomes["cell-a-0"].status == ("ok" if fits else "failed")
    assert any("memory ran out; starting it again, alone" in text for text in run.watcher.said)


def test_a_failure_of_the_code_is_not_tried_again_in_the_same_run(run):
    starts = []

    def outcome_of(one):
        starts.append(one.key)
        failed = Outcome(one.key, one.kind, "failed", "finetune", "ValueError", "a bug")
        return failed if one.key == "cell-a-0" else ok(one)

    drive(run, lambda: missing(run, two_bases()), execute_with(outcome_of))
    assert starts.count("cell-a-0") == 1


def test_memory_that_ran_out_under_all_ends_in_a_row_of_the_one_that_needs_too_much(run):
    """Ray's memory monitor ends the whole run of Tune: what ran beside the greedy unit is innocent."""

    def fit(run):
        while not run.finished:
            running = [run.take() for _ in range(3)]
            if any(one is not None and one.key == "base-b" for one in running):
                raise Aborted("Ray Tune crashed (OutOfMemoryError: ...)", cause=MEMORY)
            for one in filter(None, running):
                run.over(ok(one))

    drive(run, lambda: missing(run, two_bases()), fit)
    statuses = {key: outcome.status for key, outcome in run.outcomes.items()}
    assert {key for key, status in statuses.items() if status == "failed"} == {
        "base-b", "select-b", "cell-b-0", "cell-b-1",
    }  # fmt: skip
    rows = Store(run.storage).table(["status", "error_type", "stage"]).to_pylist()
    assert {(row["error_type"], row["stage"]) for row in rows} == {("OutOfMemory", "base")}


def test_a_process_that_died_after_its_stage_had_reached_its_limit_hung(run):
    from raybench.progress.journal import Execution

    run.assignment = Assignment(run.storage.url, timeouts={"finetune": 0.01})
    run.load(plan(unit("cell-a")))
    run.take()
    execution = Execution(run.storage, "cell-a", "cell", "a cell")
    execution.stage("surgery")
    execution.stage("finetune")
    time.sleep(0.02)
    run.lost("cell-a", "ActorDiedError: ...")
    outcome = run.outcomes["cell-a"]
    assert (outcome.error_type, outcome.stage) == ("StageTimeout", "finetune")
    assert "finetune took longer than resources.timeout allows: 0.01 s" in outcome.error_message
