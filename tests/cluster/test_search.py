"""`raybench search` through Ray: one Ray for all its steps, killed and run again, interrupted."""

import os
import signal
import time

import pytest

from raybench.results.store import Store

from .resume import Sweep, assert_no_finished_work_ran_again

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
OPTIONS = ("--target", "2", "--dimensions", "width", "resolution", "--samples", "6")


class Search(Sweep):
    """A search of the sweep, in place of its own cells."""

    verb = "search"


def test_a_killed_search_goes_on_and_does_no_finished_sample_again(tmp_path):
    search = Search(tmp_path, methods="magnitude-l2", epochs=2)
    process = search.start(*OPTIONS)
    deadline = time.monotonic() + 200
    while len(Store(search.storage).statuses()) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, search.output
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {row["trial_id"]: row for row in Store(search.storage).table().to_pylist()}
    assert 3 <= len(before) < 7
    assert "winner" not in search.output
    assert search.finish(*OPTIONS) == 0
    assert_no_finished_work_ran_again(search)
    after = {row["trial_id"]: row for row in Store(search.storage).table().to_pylist()}
    assert before.items() <= after.items()
    assert len(after) in (6, 7)  # the winner may be a sample
    assert {row["status"] for row in after.values()} == {"ok"}
    assert "polynomial of degree 2" in search.output
    first, second = search.output.split("search: checking that the target is in reach")[1:]
    assert first.count("starting Ray on this machine") == second.count("starting Ray on this machine") == 1
    assert search.finish(*OPTIONS) == 0
    assert search.output.count("starting Ray on this machine") == 2, "nothing was left to run"


@pytest.mark.slow
def test_ctrl_c_ends_a_search_with_how_to_go_on(tmp_path):
    search = Search(tmp_path, methods="magnitude-l2", epochs=500)
    process = search.start(*OPTIONS)
    search.wait_for("base", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "interrupted; to continue: raybench search" in search.output
    assert "--target 2 --dimensions width resolution --samples 6" in search.output
    assert "Traceback" not in search.output
    assert search.storage.list("leases") == []
