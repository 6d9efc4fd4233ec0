"""A driver whose Ray is gone says in one sentence what happened and how to go on, and the same command goes on."""

import time

import psutil
import pytest

from raybench.errors import RaybenchError
from raybench.execution import contact as module
from raybench.execution.capacity import concurrency
from raybench.execution.contact import ClusterLost, contact

from .resume import Sweep, assert_no_finished_work_ran_again

ray = pytest.importorskip("ray")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_head_is_killed_while_cells_run(tmp_path):
    sweep = Sweep(tmp_path, methods="[random, magnitude-l1]", epochs=12)
    process = sweep.start()
    sweep.wait_for("base", process)
    (head,) = [p for p in psutil.Process(process.pid).children(recursive=True) if "gcs_server" in p.name()]
    head.kill()
    assert process.wait(timeout=120) == 1, sweep.output
    lines = [line for line in sweep.output.splitlines() if "was lost: its head hasn't answered for" in line]
    assert len(lines) == 1, sweep.output
    assert "the same command runs the others" in lines[0]
    assert "Traceback" not in sweep.output
    assert "WorkerDied" not in sweep.output
    assert not sweep.storage.list("results"), "no cell failed because of it"
    assert sweep.finish() == 0, sweep.output
    assert_no_finished_work_ran_again(sweep)


def test_a_cluster_without_a_living_node_is_not_the_users_mistake(monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "Resources": {"CPU": 1.0}}])
    with pytest.raises(ClusterLost, match=r"no node of the Ray cluster is alive.*the same command runs the others"):
        concurrency({"CPU": 1.0}, "auto")


def test_a_head_that_answers_again_is_kept_and_one_that_does_not_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "PERIOD_S", 0.02)
    monkeypatch.setattr(module, "NOTICE_S", 0.1)
    monkeypatch.setattr(module, "LOST_S", 0.6)
    answers = [True, *[False] * 10, True]
    monkeypatch.setattr(module, "_answers", lambda head: answers.pop(0) if answers else False)
    said, lost = [], []
    with contact("127.0.0.1:1", "cluster:6379", said.append, lost.append):
        deadline = time.monotonic() + 20
        while not lost and time.monotonic() < deadline:
            time.sleep(0.02)
    assert [text.partition("hasn't")[0] for text in said] == [
        "the Ray cluster at cluster:6379 ",
        "the Ray cluster at cluster:6379 answers again",
        "the Ray cluster at cluster:6379 ",
    ]
    assert isinstance(lost[0], RaybenchError)
