"""`raybench data get`: only on request, checked, whole or not at all; against a server on this machine."""

import hashlib
import http.server
import io
import re
import tarfile
import threading

import pytest

from raybench.cli.main import main
from raybench.datasets.download import Source, fetch
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.sweep.data_roots import data_root
from tests.miniatures import cifar10


@pytest.fixture
def cifar(tmp_path):
    """A miniature of CIFAR-10: five batches of 40, a test batch of 20."""
    cifar10(tmp_path, train=40, test=20)
    return tmp_path


def archive(folder, tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(data.getvalue())
    return path, hashlib.md5(data.getvalue(), usedforsecurity=False).hexdigest()


def test_fetching_checks_and_lands_whole(cifar, tmp_path):
    path, md5 = archive(cifar / "cifar-10-batches-py", tmp_path)
    root = tmp_path / "here"
    with pytest.raises(UserError, match="expected 0000"):
        fetch(Source(path.as_uri(), "0000", "cifar-10-batches-py"), root)
    assert list(root.iterdir()) == []
    progress = []
    folder = fetch(
        Source(path.as_uri(), md5, "cifar-10-batches-py"), root, lambda done, total: progress.append((done, total))
    )
    assert progress[-1][0] == progress[-1][1] == path.stat().st_size
    assert len(open_dataset("cifar10", {}, root).train) == 180
    with pytest.raises(UserError, match="there already"):
        fetch(Source(path.as_uri(), md5, "cifar-10-batches-py"), root)
    assert folder.parent == root


class Answers(http.server.BaseHTTPRequestHandler):
    """A server of one archive, which ends early as often as `short` says."""

    content, short = b"", 0

    def do_GET(self):
        part = type(self).short > 0
        type(self).short -= part
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2] if part else self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def served(cifar, tmp_path):
    """(the address of an archive on this machine, its MD5, its server's class)."""
    path, md5 = archive(cifar / "cifar-10-batches-py", tmp_path)
    handler = type("Served", (Answers,), {"content": path.read_bytes()})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/cifar.tar.gz", md5, handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_data_get_fetches_over_the_network_only_when_asked(served, tmp_path, monkeypatch, capsys):
    url, md5, handler = served
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", url)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", md5)
    monkeypatch.setenv("RAYBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError, match="found no folder"):
        data_root("cifar10", {})  # a run never fetches by itself
    handler.short = 1
    assert main(["data", "get", "cifar10"]) == 2
    assert re.search(r"ended after [\d,]+ of [\d,]+ bytes", capsys.readouterr().err)
    assert list((tmp_path / "data" / "cifar10").iterdir()) == []  # nothing half is left
    assert main(["data", "get", "cifar10"]) == 0
    said = capsys.readouterr().out
    assert "100%" in said or "kB" in said or "MB" in said  # the bar
    assert "is ready; in a sweep: data_roots" in said
    assert len(open_dataset("cifar10", {}, data_root("cifar10", {})).whole) == 200
    assert main(["data", "get", "cifar10"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_fetching_without_a_network_says_so(tmp_path):
    with pytest.raises(UserError, match="can't be reached"):
        fetch(Source((tmp_path / "nothing.tar.gz").as_uri(), "", "x"), tmp_path)


def test_what_data_get_refuses(capsys, monkeypatch):
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    for name, word in (
        ("imagenet", "registration"),
        ("digits", "nothing to fetch"),
        ("cifar11", "Did you mean"),
        ("cifar10", "--root"),
    ):
        assert main(["data", "get", name]) == 2
        assert word in capsys.readouterr().err
