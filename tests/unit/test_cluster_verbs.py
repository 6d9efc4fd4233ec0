"""Verbs about submitted jobs against a head that answers, hangs or has no agent: what is told, and how soon."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution import jobs as jobs_module
from raybench.execution.jobs import Jobs

LOG = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\nray log\n"


class Head:
    """What a head answers: its jobs, and how long a submission takes."""

    def __init__(self) -> None:
        self.jobs: list[dict] = []
        self.submit_s = 0.0
        self.refusal = ""


@pytest.fixture
def head(monkeypatch):
    """A head in a thread; RAYBENCH_ADDRESS names it."""
    found = Head()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            version = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}
            self._answer(200, version if "version" in self.path else found.jobs)

        def do_POST(self) -> None:
            time.sleep(found.submit_s)
            self._answer(500, found.refusal)

        def do_PUT(self) -> None:
            self._answer(200, {})

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, code: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has left
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.address = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("RAYBENCH_ADDRESS", found.address)
    yield found
    server.shutdown()


def job(number: int, status: str, ago: float, took: float, message: str = "", storage: str = "") -> dict:
    start = 1000 * (time.time() - ago)
    return {
        "type": "SUBMISSION", "submission_id": f"raybench-{number:016x}-1", "status": status, "message": message,
        "entrypoint": "x", "start_time": int(start), "end_time": int(start + 1000 * took) if took else None,
        "metadata": {"sweep": "paper-cifar100", "storage": storage or "s3://my-bucket/cifar100"},
    }  # fmt: skip


@pytest.mark.parametrize("width", ["80", "120"])
def test_jobs_fit_a_terminal_and_say_how_long_ago(width, head, capsys, monkeypatch) -> None:
    head.jobs = [job(1, "FAILED", 500_000, 100, LOG.format(-9)), job(2, "RUNNING", 200, 0)]
    monkeypatch.setenv("COLUMNS", width)
    assert main(["jobs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= int(width) for line in lines)
    assert "…" not in "".join(lines)
    (first,) = (place for place, line in enumerate(lines) if "0000000000000002-1" in line)
    assert "running" in lines[first]
    assert "3m ago" in lines[first]
    assert "5d ago" in " ".join(lines[first + 1 :])
    assert main(["jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "raybench-0000000000000002-1"


def test_no_jobs_are_a_sentence(head, capsys) -> None:
    assert main(["jobs"]) == 0
    assert capsys.readouterr().out == "no jobs that raybench submitted\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (-9, "its driver was killed (SIGKILL, or memory ran out)"),
        (143, "its driver was ended (SIGTERM)"),
        (1, "some of its cells failed"),
        (7, "its driver ended with exit code 7"),
    ],
)
def test_a_job_that_failed_is_one_sentence(code, why, head, capsys, tmp_path) -> None:
    head.jobs = [job(1, "FAILED", 90, 60, LOG.format(code), str(tmp_path / "none"))]
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert f"why      {why}; raybench logs 0000000000000001-1 shows" in out
    assert "ray log" not in out
    assert "cells    unknown: " in out
    assert "took     1m 00s" in out


def test_a_head_without_an_agent_is_told_and_then_given_up(head, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(jobs_module, "ANSWER_S", 0.5)
    monkeypatch.setattr(jobs_module, "AGENT_S", 2.5)
    for head.submit_s, head.refusal in ((30.0, ""), (0.0, "No available agent to submit job")):
        said: list[str] = []
        client = Jobs(head.address, said.append)
        began = time.monotonic()
        with pytest.raises(UserError, match=r"answers, but its job agent doesn't .*; nothing was submitted"):
            client.submit("a" * 16, "true", tmp_path, {}, {})
        assert time.monotonic() - began < 10
        assert len(said) == 1
        assert "waiting up to 2 s, Ctrl-C ends" in said[0]


def test_a_missing_extra_is_named(head, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    assert main(["jobs"]) == 2
    assert "pip install 'raybench[cluster]'" in capsys.readouterr().err


def test_credentials_that_are_not_sent_are_named(capsys, monkeypatch) -> None:
    from raybench.cli.submit import _hint_at_credentials

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    _hint_at_credentials("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "x"})
    said = capsys.readouterr().err
    assert "AWS_SECRET_ACCESS_KEY; to send them: " in said
    assert "--env AWS_SECRET_ACCESS_KEY" in said
    assert "--env AWS_ACCESS_KEY_ID" not in said
    _hint_at_credentials("/shared", {})
    assert capsys.readouterr().err == ""


def test_a_finished_sweep_is_not_submitted_again(tmp_path, monkeypatch) -> None:
    from raybench.cli.submit import _nothing_left
    from raybench.results.schema import Record
    from raybench.results.store import Store
    from raybench.storage.open import open_storage
    from raybench.sweep.reader import load_sweep
    from raybench.sweep.resolve import resolve

    file = tmp_path / "s.yaml"
    file.write_text("{name: s, datasets: digits, models: test-vit, methods: bn-scale, speedups: 2, recipe: quick}")
    sweep, url = load_sweep(file), str(tmp_path / "results")
    assert _nothing_left(sweep, url) is None
    for trial in resolve(sweep):
        Store(open_storage(url)).publish(Record.skipped(trial, "no batch norm"))
    assert "nothing to do: all 1 cell are in " in str(_nothing_left(sweep, url)).replace("the 1", "1")
