"""Ray Jobs against a real head with token authentication: once per sweep, refusals that say why, a sweep end to end."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution.jobs import Jobs
from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.gc import find_garbage
from raybench.storage.open import open_storage
from tests.s3 import served_bucket

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SWEEP = """
name: submitted
datasets: digits
models: test-convnet
methods: [magnitude-l1, smallest-index]
strategies: local
speedups: 2
recipe: {extends: quick, base: {epochs: 1, warmup_epochs: 0}, finetune: {epochs: 1}}
"""
PLUGIN = '''
import torch
from raybench import Importance, importance


@importance("smallest-index")
class SmallestIndex(Importance):
    """The later the channel, the dearer."""

    def layer_scores(self, layer):
        return torch.arange(len(layer.unit), dtype=torch.float32)
'''


def _free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Head(NamedTuple):
    """Where a head answers, and what it wants to hear."""

    dashboard: str
    token: str
    gcs: str


@pytest.fixture(scope="module")
def head():
    """A head node of our own; ended by the ids of the processes that it started."""
    token, folder = secrets.token_hex(32), Path(tempfile.mkdtemp(prefix="rb"))  # short: sockets live in there
    gcs, dashboard, client, agent, agent_grpc, metrics, runtime, manager, objects = _free_ports(9)
    bin_folder = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",  # `python` of a job is the head's
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "metrics-export-port": metrics,
        "runtime-env-agent-port": runtime,
        "node-manager-port": manager,
        "object-manager-port": objects,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "object-store-memory": 80_000_000,
        "temp-dir": folder,
    }
    command = [bin_folder / "ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_dashboard(dashboard, process)
        yield Head(f"http://127.0.0.1:{dashboard}", token, f"127.0.0.1:{gcs}")
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_dashboard(port, process):
    for _ in range(600):
        assert process.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(port)


def _end(process):
    family = [process]
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


@pytest.fixture
def jobs(head, monkeypatch):
    address, token, _ = head
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    return Jobs(address)


def _until(jobs, job_id, status, patience=60):
    end = time.monotonic() + patience
    while (job := jobs.find(job_id)).status != status:
        assert time.monotonic() < end, f"{job}\n{jobs.logs(job_id)}"
        time.sleep(0.3)
    return job


def test_a_sweep_is_started_once_and_again_only_after_it_ended(jobs, tmp_path):
    (tmp_path / "note").write_text("travelled\n")
    started = []

    def submit():
        about = {"sweep": "s", "storage": "x"}
        started.append(
            jobs.submit("a" * 16, 'cat note; echo "$GREETING"; sleep 100', tmp_path, {"GREETING": "hi"}, about)
        )

    rivals = [threading.Thread(target=submit) for _ in range(2)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert {job.id for job, _ in started} == {f"raybench-{'a' * 16}-1"}
    assert sorted(first for _, first in started) == [False, True]
    first = _until(jobs, "a" * 16, "RUNNING")
    assert first.sweep == "s"
    end = time.monotonic() + 20
    while "travelled\nhi\n" not in jobs.logs(first.id) and time.monotonic() < end:
        time.sleep(0.3)
    assert "travelled\nhi\n" in jobs.logs(first.id)
    assert jobs.stop(first.id).status == "STOPPED"
    again, fresh = jobs.submit("a" * 16, "echo done", tmp_path, {}, {})
    assert (again.id, fresh) == (f"raybench-{'a' * 16}-2", True)
    assert "".join(jobs.follow(again.id)).endswith("done\n")
    assert jobs.find("a" * 16).status == "SUCCEEDED"
    assert [job.id for job in jobs.list()][:2] == [again.id, first.id]


def test_what_was_typed_beats_the_environment(head, jobs, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert Jobs(head[0]).ray_version
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


def test_a_missing_token_is_asked_for(head, jobs, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(UserError, match="requires a token: set RAY_AUTH_TOKEN"):
        Jobs(head[0]).list()


def test_a_wrong_token_is_refused(head, jobs, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with pytest.raises(UserError, match="refuses this token"):
        Jobs(head[0]).list()


@pytest.mark.parametrize("token", [None, "wrong"])
def test_run_tells_a_missing_and_a_wrong_token_and_writes_nothing(head, token, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.replace(", smallest-index", ""))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32)} if token else {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", "import sys; from raybench.cli.main import main; sys.exit(main())"]
    command += ["run", str(file), "--address", head.gcs, "--storage", str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert ("this token" if token else "may require a token: set RAY_AUTH_TOKEN") in done.stderr
    assert "Traceback" not in done.stderr
    assert open_storage(tmp_path / "store").list("") == []


def test_another_version_of_the_code_there_is_named(head, jobs, tmp_path, monkeypatch, capsys):
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.replace(", smallest-index", ""))
    monkeypatch.setattr("raybench.execution.submission.version", lambda name: "9.9")
    arguments = ["submit", str(file), "--address", head[0], "--storage", str(tmp_path / "store")]
    assert main(arguments) == 2
    assert f"ray 9.9 here, ray {_ray_version()} on the cluster" in capsys.readouterr().err
    monkeypatch.setattr(
        "raybench.execution.submission.client_versions", lambda: {"raybench": "9.9", "ray": _ray_version()}
    )
    assert main([*arguments, "--wait"]) == 1
    assert "raybench 9.9 here, raybench" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()


def _ray_version():
    import ray

    return ray.__version__


@pytest.mark.parametrize("address", ["gcs", "dashboard"])
def test_a_run_queued_in_the_browser_goes_to_the_cluster(head, jobs, tmp_path, address):
    """By the port of the head with a driver here, and by its dashboard as a job: to its end, and stopped in order."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from raybench.serve.settings import Settings
    from tests.unit.serving import FORM, Browser

    none = {f"{stage}_{name}": "0" for stage in ("base", "finetune") for name in ("epochs", "warmup_epochs")}
    settings = Settings(str(tmp_path / "st"), tmp_path / "work", address=getattr(head, address))
    with Browser(settings) as browser:
        runs, done = browser.parts.runs, _queued(browser, {**FORM, **none})
        assert _served(runs, done, "ok", "failed").status == "ok", runs.tail(done)
        assert browser.get(f"/run.html?id={done}").text.count('data-status="ok"') == 1
        long = _queued(browser, {**FORM, "base_epochs": "5000", "base_seeds": "per-seed", "seeds": "3"})
        storage = open_storage(tmp_path / "st")
        _wait(lambda: storage.list("leases"), lambda: runs.tail(long))
        assert browser.post(f"/stop?id={long}").status_code == 200
        assert _served(runs, long, "stopped", "ok", "failed").status == "stopped"
        assert "interrupted; to continue" in runs.tail(long)
        assert storage.list("leases") == []


def _queued(browser, form):
    answer = browser.post("/queue", data=form)
    assert "hx-redirect" in answer.headers, answer.text
    return answer.headers["hx-redirect"].partition("id=")[2]


def _served(runs, run, *statuses):
    _wait(lambda: runs.get(run).status in statuses, lambda: runs.tail(run))
    return runs.get(run)


def _wait(found, shown, patience=120):
    end = time.monotonic() + patience
    while not found():
        assert time.monotonic() < end, shown()
        time.sleep(0.3)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """Address of a prefix on an S3 server on loopback; the endpoint travels in the address, the credentials don't."""
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "cache"))
    with served_bucket(monkeypatch, "sweeps") as url:
        yield url


def test_a_sweep_with_a_plugin_on_s3_end_to_end(head, jobs, bucket, tmp_path, capsys):
    sweep, plugin = tmp_path / "sweep.yaml", tmp_path / "mine.py"
    sweep.write_text(SWEEP)
    plugin.write_text(PLUGIN)
    common = ["--address", head[0]]
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAYBENCH_CACHE")
    arguments = ["submit", str(sweep), "--plugin", str(plugin), "--storage", bucket, *common]
    arguments += [word for name in names for word in ("--env", name)]
    assert main(arguments) == 0
    assert "submitted" in capsys.readouterr().out
    elsewhere = tmp_path / "elsewhere"  # the same sweep, typed on another machine
    elsewhere.mkdir()
    for file in (sweep, plugin):
        shutil.copy(file, elsewhere)
    typed = [str(elsewhere / Path(word).name) if word in (str(sweep), str(plugin)) else word for word in arguments]
    code = "import sys; from raybench.cli.main import main; sys.exit(main())"
    again = subprocess.run([sys.executable, "-c", code, *typed], cwd=elsewhere, capture_output=True, text=True)
    assert "nothing was submitted" in again.stdout, again.stderr
    assert main(["logs", "--follow", *common]) == 0
    log = capsys.readouterr().out
    assert main(["status", *common]) == 0
    assert "succeeded" in capsys.readouterr().out, log
    storage = open_storage(bucket)
    rows = Store(storage).table(["importance", "status"]).to_pylist()
    assert sorted((row["importance"], row["status"]) for row in rows) == [
        ("magnitude-l1", "ok"),
        ("smallest-index", "ok"),
    ]
    executions = Counter(entry["key"] for entry in read_journal(storage))
    assert set(executions.values()) == {1}, "each unit ran once, although two people asked for it"
    assert len(executions) == 1 + 2 + 2
    assert main(["watch", bucket]) == 0
    assert "submitted: 2/2 cells (2 ok, 0 failed, 0 skipped)" in capsys.readouterr().out
    assert find_garbage(storage, [], age=0) == []  # no lease, upload or checkpoint is left
    assert main(["jobs", *common, "--format", "json"]) == 0
    assert '"sweep": "submitted"' in capsys.readouterr().out
    assert main(["stop", *common]) == 0
    assert "nothing to stop, it has succeeded" in capsys.readouterr().out
