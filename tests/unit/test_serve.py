"""The served pages are the report's, live; what the guard refuses; files and uploads"""

import json
import os
import pickle
import socket
from html.parser import HTMLParser

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from raybench.cli.main import main
from raybench.results.store import Store
from raybench.serve import uploads
from raybench.serve.guard import CSRF
from raybench.serve.settings import Settings
from raybench.storage.open import open_storage
from tests.unit.report_stores import MARKUP, hostile, seeded, store
from tests.unit.result_rows import failure, row, trial
from tests.unit.serving import HERE

TOKEN = "0123456789abcdef-long"
POSTS = ("/queue", "/preview", "/dryrun", "/stop?id=x", "/retry?id=x", "/upload", "/forget?key=x")


class Handlers(HTMLParser):
    """Collects what the policy of the pages forbids: attributes that would run code, and styles inside a page."""

    def __init__(self):
        super().__init__()
        self.names = []

    def handle_starttag(self, tag, attrs):
        self.names += [
            f"{tag} {name}"
            for name, value in attrs
            if name == "style" or name.startswith(("on", "hx-on")) or (value or "").startswith("javascript:")
        ]
        self.names += [tag] if tag == "style" else []


def test_the_pages_of_the_report_are_served_with_their_data(tmp_path, serving):
    store(tmp_path / "st", seeded())
    browser = serving()
    page = browser.get("/board-digits-cifar-resnet20-protected-global.html")
    assert page.status_code == 200
    assert "magnitude-l2" in page.text
    blocks = page.text.partition('data-blocks="')[2].partition('"')[0]
    assert browser.get(f"/{blocks}index.js").text.startswith('raybench.block("index"')
    assert browser.get("/data/boards.parquet").content[:4] == b"PAR1"
    for name in ("report.css", "report.js", "serve.css", "serve.js", "htmx.min.js", "sse.min.js"):
        assert f"{name}" in page.text
        assert browser.get(f"/{name}").status_code == 200
    for name in ("index", "new", "runs", "trials", "ranks"):
        assert browser.get(f"/{name}.html").status_code == 200, name


def test_no_page_has_a_handler_or_script_of_its_own(tmp_path, serving):
    rows, failures = hostile()
    store(tmp_path / "st", rows, failures)
    browser = serving()
    boards = [name for name in browser.parts.live.newest().pages if name.startswith(("board-", "method-"))]
    for name in ("index", "new", "runs", "failures", "trials", "ranks", "findings", "nothing-there", *boards):
        answer = browser.get(f"/{name}.html")
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
        assert "<script>" not in answer.text
        assert MARKUP not in answer.text
        found = Handlers()
        found.feed(answer.text)
        assert not found.names


@pytest.mark.parametrize(
    ("rows", "failures", "words"),
    [((), (), "no results here yet"), ((), [failure()], "No cell has finished"), ([row()], (), "finished cell")],
    ids=["empty", "failures", "one"],
)
def test_a_store_with_little_is_a_page_that_says_so(tmp_path, serving, rows, failures, words):
    store(tmp_path / "st", rows, failures)
    browser = serving()
    assert words in browser.get("/index.html").text
    assert browser.get("/runs.html").status_code == 200
    assert browser.get("/run.html?id=../../etc").status_code == 422
    assert "Not found" in browser.get("/gone.html").text


def test_a_store_that_is_not_there_yet_is_empty_and_stays_so(tmp_path, serving):
    browser = serving(work=tmp_path / "elsewhere")
    assert "no results here yet" in browser.get("/index.html").text
    assert not (tmp_path / "st").exists()


def test_a_storage_that_can_not_be_read_is_said(tmp_path, serving, monkeypatch):
    store(tmp_path / "st", [row()])
    browser = serving()

    def broken(*_):
        raise PermissionError(13, "Permission denied", "results/cells")

    monkeypatch.setattr(browser.parts.store.storage, "list", broken)
    browser.parts.pulse.version._until = 0
    for name in ("index", "runs", "gone"):
        answer = browser.get(f"/{name}.html")
        assert (answer.status_code, "Permission denied" in answer.text) == (503, True), name


def test_new_rows_come_and_old_pages_keep_their_data(tmp_path, serving):
    written = store(tmp_path / "st", [row()])
    browser = serving()
    old = browser.get("/index.html").text
    version = old.partition('data-blocks="data/')[2].partition("/")[0]
    assert browser.get(f"/news?seen={version}").text == ""
    written.publish(row(trial("lamp")))
    browser.parts.pulse.version._until = 0  # a moment later
    assert "Show them" in browser.get(f"/news?seen={version}").text
    assert "lamp" in browser.get("/methods.html").text
    assert browser.get(f"/data/{version}/index.js").status_code == 200
    assert browser.get("/data/0123/index.js").status_code == 404


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "localhost:8765", 200),
        ({}, "127.0.0.1:9000", 200),
        ({}, "[::1]:8765", 200),
        ({}, "evil.example", 421),
        ({}, "127.0.0.1.evil.example", 421),
        ({}, "192.168.1.7:8765", 421),
        ({}, "[bad", 421),
        ({}, "", 421),
        ({"names": ("proxy.example",)}, "proxy.example", 200),
        ({"host": "0.0.0.0"}, "192.168.1.7:8765", 200),
        ({"host": "0.0.0.0"}, "evil.example", 421),
        ({"host": "0.0.0.0"}, socket.gethostname(), 200),
    ],
)
def test_the_host_must_be_this_server(serving, settings, host, status):
    assert serving(**settings).get("/report.css", headers={"host": host}).status_code == status


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {CSRF: "0" * 64},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=["no token", "wrong token", "origin", "null origin", "cross-site", "same-site"],
)
def test_what_changes_something_comes_from_our_pages(serving, path, headers):
    browser = serving()
    own = dict(browser.headers) if "origin" in headers or "sec-fetch-site" in headers else {}
    assert browser.guest.post(path, headers={**own, **headers}).status_code == 403
    assert not list((browser.parts.settings.work / "runs").iterdir())


def test_our_own_origin_passes(serving):
    browser = serving(names=("proxy.example",))
    for origin in (HERE, "https://proxy.example"):
        answer = browser.post("/preview", headers={"origin": origin, "sec-fetch-site": "same-origin"})
        assert answer.status_code == 422, origin  # an empty form


def test_a_token_is_asked_for_and_becomes_a_cookie(tmp_path, serving):
    store(tmp_path / "st", [row()])
    browser = serving(host="0.0.0.0", token=TOKEN)
    guest = browser.guest
    assert guest.get("/index.html", headers={"accept": "text/html"}, follow_redirects=False).headers["location"] == (
        "login.html"
    )
    for path in ("/data/boards.parquet", "/events", "/news", "/files/artifacts/00000000/pruned.json", "/runs.html"):
        assert guest.get(path, headers={"accept": "*/*"}).status_code == 401, path
    assert guest.get("/index.html", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guest.get("/index.html", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert guest.post("/login", data={"token": "wrong"}).status_code == 401
    assert guest.post("/login", data={"token": TOKEN}, headers={"origin": "https://evil.example"}).status_code == 403
    entered = guest.post("/login", data={"token": TOKEN}, follow_redirects=False)
    assert all(part in entered.headers["set-cookie"] for part in ("HttpOnly", "SameSite=strict"))
    assert TOKEN not in entered.headers["set-cookie"]
    assert guest.get("/index.html").status_code == 200


def test_the_printed_address_logs_in(tmp_path, serving):
    store(tmp_path / "st", [row()])
    guest = serving(host="0.0.0.0", token=TOKEN).guest
    page = guest.get(f"/?token={TOKEN}", headers={"accept": "text/html"})
    assert page.url.path == "/index.html"
    assert "token" not in str(page.url)


def test_read_only_shows_and_changes_nothing(tmp_path, serving):
    store(tmp_path / "st", [row()])
    browser = serving(read_only=True)
    assert "New run" not in browser.get("/index.html").text
    assert browser.get("/runs.html").status_code == 200
    assert browser.get("/new.html").status_code == 404
    assert {browser.post(path).status_code for path in POSTS} == {403}
    assert not (tmp_path / "work").exists()


def network(tmp_path):
    of = trial()
    folder = tmp_path / "st" / "artifacts" / of.trial_id
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"tensors")
    (folder / "pruned.json").write_text("{}")
    store(tmp_path / "st", [row(of, artifact=f"artifacts/{of.trial_id}")])
    return of.trial_id, folder


def test_pruned_networks_are_downloads(tmp_path, serving):
    trial_id, _ = network(tmp_path)
    browser = serving()
    found = browser.get(f"/files/artifacts/{trial_id}/model.safetensors")
    assert found.content == b"tensors"
    assert found.headers["content-disposition"].startswith("attachment")
    assert 'data-files="files/"' in browser.get("/trial.html").text


@pytest.mark.parametrize(
    "path",
    ["{id}/secret", "{id}/..%2f..%2fsecret", "../../secret", "..%2f..%2f/model.safetensors", "00000000/pruned.json",
     "{id}/model.safetensors.link", "%2e%2e/pruned.json"],
)  # fmt: skip
def test_no_other_file_can_be_read(tmp_path, serving, path):
    trial_id, folder = network(tmp_path)
    (tmp_path / "st" / "secret").write_text("secret")
    (folder / "secret").write_text("secret")
    answer = serving().get("/files/artifacts/" + path.format(id=trial_id))
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_a_link_out_of_the_storage_is_not_followed(tmp_path, serving):
    trial_id, folder = network(tmp_path)
    (tmp_path / "outside").write_text("secret")
    (folder / "pruned.json").unlink()
    os.symlink(tmp_path / "outside", folder / "pruned.json")
    assert serving().get(f"/files/artifacts/{trial_id}/pruned.json").status_code == 404


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/raybench-was-here",)


def weights(kind):
    import io

    import torch
    from safetensors.torch import save

    if kind == "safetensors":
        return save({"weight": torch.zeros(2, 2)})
    if kind == "pickle":
        return pickle.dumps(Evil())
    held = io.BytesIO()
    torch.save({"weight": torch.zeros(2, 2)} if kind == "state dict" else {"weight": Evil()}, held)
    return held.getvalue()


@pytest.fixture
def checked_here(monkeypatch):
    """The tensors of an upload are counted in this process, as a process of its own takes seconds."""
    from raybench.models.tensors import read_tensors

    monkeypatch.setattr(uploads, "_tensors", lambda file, name: len(read_tensors(file)))


@pytest.mark.usefixtures("checked_here")
@pytest.mark.parametrize("kind", ["safetensors", "state dict"])
def test_weights_are_uploaded_and_offered(tmp_path, serving, kind):
    browser = serving()
    answer = browser.post("/upload", files={"file": ("../../<b>best.pt", weights(kind))})
    assert answer.status_code == 200, answer.text
    assert "_b_best.pt" in answer.text
    key = answer.text.partition("upload:")[2].partition('"')[0]
    kept = sorted(file.name for file in (tmp_path / "work" / "uploads").iterdir())
    assert kept == [f"{key}.json", f"{key}.weights"]
    assert "best.pt" in browser.get("/new.html").text
    assert "best.pt" not in browser.post(f"/forget?key={key}").text
    assert browser.post("/forget?key=../../st").status_code == 422
    assert not list((tmp_path / "work" / "uploads").iterdir())


@pytest.mark.usefixtures("checked_here")
@pytest.mark.parametrize("content", ["pickle", "code", b"", b"no weights"])
def test_bad_weights_are_refused_and_not_kept(tmp_path, serving, content):
    given = content if isinstance(content, bytes) else weights(content)
    answer = serving().post("/upload", files={"file": ("best.pt", given)})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert not list((tmp_path / "work").glob("uploads/*"))
    assert not os.path.exists("/tmp/raybench-was-here")


def test_uploads_are_checked_by_a_process_that_runs_no_code(tmp_path, capsys):
    from raybench.serve import check_weights

    for kind, expected in (("state dict", '{"tensors": 1}'), ("code", "refused to load")):
        (tmp_path / "w").write_bytes(weights(kind))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(check_weights.resource, "setrlimit", lambda *_: None)  # would bind the tests
            check_weights.main(tmp_path / "w")
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("honest", [True, False])
def test_a_body_that_is_too_large_is_refused(tmp_path, serving, honest):
    browser = serving(max_upload=1000)

    def chunks():
        for _ in range(40):
            yield b"x" * 10_000

    body = {"content": b"x" * 400_000} if honest else {"content": chunks()}
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for path in ("/upload", "/preview"):
        assert browser.post(path, headers=headers, **body).status_code == 413
        body = {"content": b"x" * 400_000} if honest else {"content": chunks()}
    assert not list((tmp_path / "work").glob("uploads/*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--allow", "nowhere"], "--allow nowhere: found no such folder"),
        (["--port", "70000"], "--port: found 70000"),
        (["--max-upload", "0"], "--max-upload: found 0"),
        (["--token-file", "short"], "found 5 characters, expected at least 16"),
        (["--token-file", "gone"], "can't be read"),
        (["--read-only"], "there is no such folder"),
        (["--host", "no.such.host.invalid", "--port", "0"], "can't be listened on"),
    ],
)
def test_options_that_can_not_be_used_are_named(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("12345\n")
    assert main(["serve", "st", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("rows", "said"), [(0, " (nothing is there yet)"), (1, "")])
def test_the_first_line_says_what_is_served_and_whether_there_is_anything(tmp_path, monkeypatch, capsys, rows, said):
    for number in range(rows):
        Store(open_storage(str(tmp_path / "r"))).publish(row(trial(seed=number)))
    monkeypatch.setattr("raybench.serve.server.serve", lambda settings, port, ready: ready(f"http://here:{port}"))
    assert main(["serve", str(tmp_path / "r"), "--port", "1"]) == 0
    assert capsys.readouterr().out == f"serving {tmp_path / 'r'}{said}\nopen http://here:1\n"


def test_a_bind_that_others_reach_has_a_token(tmp_path, monkeypatch):
    from raybench.cli.parser import Parser
    from raybench.cli.serve import arguments, settings_of

    parser = Parser()
    arguments(parser)
    monkeypatch.setenv("RAYBENCH_TOKEN", TOKEN)
    read = [settings_of(parser.parse_args([str(tmp_path), *more])) for more in ([], ["--host", "0.0.0.0"], [])]
    assert read[0].token == TOKEN
    assert "RAYBENCH_TOKEN" not in os.environ  # runs don't inherit it
    assert len(read[1].token) == 32
    assert read[2].token is None
    assert TOKEN not in repr(Settings(str(tmp_path), tmp_path)) + json.dumps(str(read[2]))
