"""The queue of `raybench serve`: runs one after the other, stops, retries, is found again, and says how it goes"""

import asyncio
import json
import signal
import time

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from raybench.errors import UserError
from raybench.results.store import Store
from raybench.serve import app, events, where
from raybench.serve.form import Wanted
from raybench.serve.runs import Runs
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial

LONG = "import time; print('begun', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
CELLS = [trial(), trial("lamp"), trial("hrank")]


def queued(browser, name="mine", folder=None):
    """A run in the queue, as the form puts it there."""
    wanted = Wanted(name, "name: mine\n", folder, "cifar-resnet20", "digits", "", ("lamp",), (), (), ())
    cells = [
        {"trial_id": one.trial_id, "model": one.model, "method": one.method, "strategy": one.strategy,
         "speedup": one.speedup, "seed": one.seed}
        for one in CELLS
    ]  # fmt: skip
    one = browser.parts.runs.add(wanted, {"cells": cells})
    browser.parts.queue.notify()
    return one.id


def until(browser, run, *statuses, log=""):
    """Wait until a run has one of the statuses, and its log holds the words."""
    for _ in range(600):
        one = browser.parts.runs.get(run)
        if one.status in statuses and log in browser.parts.runs.tail(run):
            return one
        time.sleep(0.05)
    raise AssertionError((one, browser.parts.runs.tail(run)))


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("print('hello')", "ok"),
        ("raise SystemExit(1)", "failed"),
        ("raise SystemExit(130)", "stopped"),
        ("1/0", "failed"),
    ],
)
def test_a_run_ends_as_its_process_did(serving, script, status):
    browser = serving(script)
    run = queued(browser)
    one = until(browser, run, status)
    assert one.ended >= one.started >= one.created
    page = browser.get(f"/run.html?id={run}").text
    assert f"s-{status}" in page
    assert "Run again" in page
    assert browser.get(f"/take/{run}/log.txt").text.startswith("attempt 1, ")
    assert browser.get(f"/take/{run}/sweep.yaml").text == "name: mine\n"


def test_the_process_is_raybench_run_with_this_storage(tmp_path, serving):
    browser = serving("import sys; print(sys.argv[1:])", address="head:10001")
    run = queued(browser)
    until(browser, run, "ok")
    sweep = str(tmp_path / "work" / "runs" / run / "sweep.yaml")
    expected = ["run", sweep, "--storage", str(tmp_path / "st"), "--address", "head:10001"]
    assert str(expected) in browser.parts.runs.tail(run)


def test_on_a_dashboard_a_run_is_a_job_that_stop_ends(tmp_path, serving):
    script = (
        "import sys, time; print(sys.argv[1:], flush=True)\n"
        "sys.exit() if sys.argv[1] == 'stop' else print('raybench-0123456789abcdef-1: submitted', flush=True)\n"
        "time.sleep(1); sys.exit(1)"
    )
    browser = serving(script, address="http://head:8265", allowed=(tmp_path,))
    run = queued(browser, folder=tmp_path)
    sweep = str(tmp_path / "work" / "runs" / run / "sweep.yaml")
    expected = ["submit", sweep, "--storage", str(tmp_path / "st"), "--address", "http://head:8265"]
    expected += ["--mounted", str(tmp_path), "--working-dir", str(tmp_path), "--wait"]
    until(browser, run, "running", log="submitted")
    browser.post(f"/stop?id={run}")
    assert until(browser, run, "stopped").exit_code == 1  # the process that followed the job saw it stop
    log = browser.parts.runs.tail(run)
    assert str(expected) in log
    assert str(["stop", "raybench-0123456789abcdef-1", "--address", "http://head:8265"]) in log


def test_a_job_that_was_not_submitted_yet_is_ended_by_its_process(serving):
    browser = serving(LONG, address="http://head:8265")
    run = queued(browser)
    until(browser, run, "running", log="begun")
    browser.post(f"/stop?id={run}")
    assert until(browser, run, "stopped").exit_code == -signal.SIGTERM


@pytest.mark.parametrize("address", ["nonsense", "head", "head:", ":6379", "ray://head:10001", "head:port", "a b:1"])
def test_what_is_no_address_of_a_cluster_is_refused(address):
    with pytest.raises(UserError, match="expected auto, HOST:PORT of the head, or its dashboard's http://HEAD:8265"):
        where.check_address(address)


@pytest.mark.parametrize("address", [None, "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379", "https://head/ray"])
def test_addresses_of_clusters_pass(address):
    where.check_address(address)


def test_runs_wait_for_each_other_and_can_be_stopped(serving):
    browser = serving(LONG)
    first, second = queued(browser), queued(browser, "other")
    until(browser, first, "running", log="begun")
    assert browser.parts.runs.get(second).status == "queued"
    assert browser.post(f"/stop?id={second}").text.count("stopped")
    assert "it finishes" in browser.post(f"/stop?id={first}").text
    assert until(browser, first, "stopped").exit_code == -signal.SIGTERM
    assert browser.parts.runs.get(second).started is None
    assert browser.post(f"/stop?id={first}").status_code == 422


def test_runs_of_one_second_keep_their_order(serving):
    browser = serving(LONG)
    queued_ids = [queued(browser, f"n{place}") for place in range(8)]
    assert [one.id for one in reversed(browser.parts.runs.all())] == queued_ids


def test_a_process_that_does_not_hear_is_killed(serving, monkeypatch):
    from raybench.serve import queue

    monkeypatch.setattr(queue, "GRACE_S", 0.3)
    browser = serving(DEAF)
    run = queued(browser)
    until(browser, run, "running", log="begun")
    browser.post(f"/stop?id={run}")
    assert until(browser, run, "stopped").exit_code == -signal.SIGKILL


def test_an_ended_run_is_tried_again(serving):
    browser = serving("raise SystemExit(1)")
    run = queued(browser)
    until(browser, run, "failed")
    browser.post(f"/retry?id={run}")
    assert until(browser, run, "failed", log="attempt 2").attempt == 2
    assert browser.post("/retry?id=20260101-000000-abcdef").status_code == 422


def test_the_next_server_finds_what_was_and_what_waited(tmp_path, serving):
    browser = serving(LONG)
    first, second = queued(browser), queued(browser, "other")
    until(browser, first, "running", log="begun")
    app.close(browser.parts)
    assert browser.parts.runs.get(first).status == "stopped"
    again = Runs(tmp_path / "work")
    assert again.get(first).status == "stopped"
    assert again.get(second).status == "queued"
    again.close()


def test_a_server_that_was_killed_leaves_a_lost_run(tmp_path, serving):
    browser = serving("")
    run = queued(browser)
    until(browser, run, "ok")
    file = tmp_path / "work" / "runs" / run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running"}))
    (tmp_path / "work" / "runs" / "20260101-000000-abcdef").mkdir()
    (tmp_path / "work" / "runs" / "20260101-000000-abcdef" / "run.json").write_text("{damaged")
    app.close(browser.parts)
    again = Runs(tmp_path / "work")
    assert [one.status for one in again.all()] == ["lost"]
    again.close()


def test_two_servers_do_not_share_a_queue(tmp_path, serving):
    serving()
    with pytest.raises(UserError, match="another raybench serve uses it"):
        Runs(tmp_path / "work")


def test_the_history_is_filtered(serving):
    browser = serving("")
    for name in ("alpha", "beta"):
        until(browser, queued(browser, name), "ok")
    assert browser.get("/runs.html").text.count("run.html?id=") == 2
    assert browser.get("/history?words=ALPHA lamp").text.count("run.html?id=") == 1
    assert browser.get("/history?status=ok").text.count("run.html?id=") == 2
    assert "No run fits" in browser.get("/history?status=failed&words=alpha").text


def test_a_run_tells_the_state_of_its_cells(tmp_path, serving):
    browser = serving(LONG)
    run = queued(browser)
    until(browser, run, "running", log="begun")
    written = Store(open_storage(str(tmp_path / "st")))
    written.publish(row(CELLS[0], metric_final=93.25))
    written.publish_attempt(failure(CELLS[1], message="<b>singular</b> matrix"))
    found = events.run_parts(browser.parts, run)
    assert "<b>2</b> of 3 cells: 1 ok" in found["tally"]
    assert "93.25" in found["cells"]
    assert f"files/artifacts/{CELLS[0].trial_id}/model.safetensors" in found["cells"]
    assert "&lt;b&gt;singular" in found["cells"]
    assert 'data-status="waiting"' in found["cells"]
    assert "begun" in found["log"]


def test_events_are_sent_once_until_they_change():
    states = iter([{"a": "1", "b": "x\ny"}, {"a": "1", "b": "x\ny"}, {"a": "2", "b": "x\ny"}, {}])
    looks = iter([False, False, False, True])

    async def never():
        return False

    async def read():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(events, "LOOK_S", 0)
            return [text async for text in events.stream(lambda: next(states), lambda: next(looks), never)]

    assert asyncio.run(read()) == [
        "event: a\ndata: 1\n\n", "event: b\ndata: x\ndata: y\n\n", "event: a\ndata: 2\n\n",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["x/log.txt", "{run}/run.json", "{run}/..%2f..%2flock", "..%2f..%2fst/log.txt"])
def test_no_other_file_of_a_run_is_given(serving, path):
    browser = serving("")
    run = queued(browser)
    until(browser, run, "ok")
    assert browser.get("/take/" + path.format(run=run)).status_code in (404, 422)
