"""What travels with a submitted sweep, and what is refused before anything is sent."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raybench.cli.job_entry import MISMATCH, entry
from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution.jobs import Jobs, read_token
from raybench.execution.submission import VERSIONS, Submission, forwarded, shared_storage, version_mismatch
from raybench.storage.local import LocalStorage
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
PLUGIN = '@importance("travelling")\nclass Travelling:\n    """Nothing."""\n'


@pytest.fixture
def sweep(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: magnitude-l1\nspeedups: 2\n"
        "recipe: {extends: quick, finetune: {epochs: 1}}\nstorage: here\n"
    )
    return load_sweep(file)


def _submission(sweep, **changes):
    return Submission(
        **{"sweep": sweep, "storage": "s3://b/p", "plugins": [], "modules": None, "options": [], **changes}
    )


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_survives_the_journey(file, tmp_path):
    sweep = load_sweep(file)
    _submission(sweep).stage(tmp_path)  # raises when what travels differs
    assert (tmp_path / "sweep.yaml").exists()


def test_the_cells_that_arrive_are_the_cells_that_were_sent(sweep, tmp_path):
    _submission(sweep).stage(tmp_path)
    arrived = load_sweep(tmp_path / "sweep.yaml")
    assert [trial.trial_id for trial in resolve(arrived)] == [trial.trial_id for trial in resolve(sweep)]


def test_plugins_and_modules_travel(sweep, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    modules = tmp_path / "code"
    (modules / "nets").mkdir(parents=True)
    (modules / "nets" / "a.py").write_text("x = 1\n")
    (modules / ".git").mkdir()
    target = tmp_path / "target"
    target.mkdir()
    sent = _submission(sweep, plugins=[plugin], modules=modules)
    sent.stage(target)
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert files == ["nets/a.py", "plugins/mine.py", "sweep.yaml"]
    assert sent.entrypoint == (
        "python -m raybench.cli.job_entry sweep.yaml --address auto --storage s3://b/p --plugin plugins/mine.py"
    )


def test_the_hash_knows_what_makes_a_difference(sweep, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    hashes = [
        _submission(sweep).hash,
        _submission(sweep, storage="s3://b/q").hash,
        _submission(sweep, options=["--x"]).hash,
    ]
    hashes.append(_submission(sweep, plugins=[plugin]).hash)
    plugin.write_text(PLUGIN + "# changed\n")
    hashes.append(_submission(sweep, plugins=[plugin]).hash)
    hashes.append(_submission(sweep.model_copy(update={"seeds": (7,)})).hash)
    assert len(set(hashes)) == len(hashes)
    assert _submission(sweep).hash == _submission(sweep.model_copy()).hash


def test_two_plugins_of_one_name_are_refused(sweep, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN)
    target = tmp_path / "t"
    target.mkdir()
    with pytest.raises(UserError, match=r"another plug-in is called mine\.py"):
        _submission(sweep, plugins=[tmp_path / "a/mine.py", tmp_path / "b/mine.py"]).stage(target)


@pytest.mark.parametrize("url", [None, "results", "./results"])
def test_storage_that_only_this_machine_has_is_refused(url):
    with pytest.raises(UserError, match="every node mounts"):
        shared_storage(url)


def test_shared_storage_is_taken_as_it_is():
    assert [shared_storage(url) for url in ("s3://b/p", "/mnt/p")] == ["s3://b/p", "/mnt/p"]


def test_versions_that_differ_are_both_named():
    mine, theirs = {"raybench": "1", "ray": "2.60.0"}, {"raybench": "2", "ray": "2.60.0"}
    assert version_mismatch(mine, mine) is None
    assert "raybench 1 here, raybench 2 on the cluster" in version_mismatch(mine, theirs)
    assert "ray" not in version_mismatch(mine, theirs).replace("raybench", "")


def test_the_job_refuses_another_version_before_it_runs_anything(monkeypatch, capsys):
    monkeypatch.setenv(VERSIONS, '{"raybench": "0.0.0"}')
    assert entry(["no-such-file.yaml"]) == MISMATCH
    assert "raybench 0.0.0 here" in capsys.readouterr().err


def test_variables_are_forwarded_by_name(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:1")
    assert forwarded(["AWS_ENDPOINT_URL"]) == {"AWS_ENDPOINT_URL": "http://h:1"}
    with pytest.raises(UserError, match="--env NOPE"):
        forwarded(["NOPE"])


def test_the_token_is_read_where_ray_reads_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("default\n")
    assert read_token() is None  # left there by some local run: not sent to every address that is typed
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert read_token() == "default"
    (tmp_path / "t").write_text("named\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "t"))
    assert read_token() == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "told")
    assert read_token() == "told"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nope"))
    with pytest.raises(UserError, match=r"can't read .*nope"):
        read_token()


def test_nobody_at_the_address(capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["jobs", "--address", address]) == 2
    assert f"no answer from {address} (Connection refused); is the cluster up" in capsys.readouterr().err


def test_run_at_an_address_where_nobody_listens_ends_at_once(tmp_path, capsys):
    file = tmp_path / "s.yaml"
    file.write_text("name: s\ndatasets: digits\nmodels: test-convnet\nmethods: random\nspeedups: 2\nrecipe: quick\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert main(["run", str(file), "--address", address, "--storage", str(tmp_path / "store")]) == 2
    assert f"--address {address}: no Ray cluster answers there" in capsys.readouterr().err
    assert LocalStorage(tmp_path / "store").list("") == []


def test_an_address_that_is_no_dashboard(tmp_path):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UserError, match="but is no Ray dashboard"):
        Jobs(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(UserError, match="expected the dashboard's"):
        Jobs("ray://127.0.0.1:10001")
    server.shutdown()


class _Agentless:
    """A cluster whose agent isn't up yet: refuses twice, then takes the job."""

    def __init__(self):
        self.calls = 0

    def submit_job(self, **request):
        self.calls += 1
        if self.calls < 3:
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try again later."
            )


def test_a_cluster_without_an_agent_yet_is_asked_again(monkeypatch):
    monkeypatch.setattr("raybench.execution.jobs.time.sleep", lambda seconds: None)
    jobs = Jobs.__new__(Jobs)
    jobs.address, jobs._client = "http://h", _Agentless()
    assert jobs._start("raybench-x-1", "true", {}, {})
    assert jobs._client.calls == 3


def test_another_refusal_is_passed_on():
    class Refusing:
        def submit_job(self, **request):
            raise RuntimeError("Request failed with status code 400: bad runtime_env")

    jobs = Jobs.__new__(Jobs)
    jobs.address, jobs._client = "http://h", Refusing()
    with pytest.raises(UserError, match="bad runtime_env"):
        jobs._start("raybench-x-1", "true", {}, {})


def test_every_verb_has_help(capsys):
    for verb in ("submit", "jobs", "status", "logs", "stop"):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert "--address" in capsys.readouterr().out
