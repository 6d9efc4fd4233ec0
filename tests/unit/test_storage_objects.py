"""Object stores against a real S3 server on loopback: atomic publishing, racing writers, kills, refusals."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import pytest

from raybench.errors import UserError
from raybench.storage import sealed
from raybench.storage.damage import DamageWarning, set_aside
from raybench.storage.leases import Lease
from raybench.storage.objects import ENTRY, UPLOADS, ObjectStorage
from raybench.storage.open import check_writable, open_storage
from tests.s3 import answering

pytest.importorskip("moto")
pytest.importorskip("obstore")
boto3 = pytest.importorskip("boto3")

SPAWN = multiprocessing.get_context("spawn")  # obstore's threads do not survive a fork


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """A moto S3 server with one bucket; the environment points at it, as it would on a worker."""
    patch = pytest.MonkeyPatch()
    port = _free_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "RAYBENCH_CACHE": str(tmp_path_factory.mktemp("cache")),
    }.items():
        patch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("moto") / "log"
    patch.setenv("MOTO_LOG", str(log))  # read by `_requests`
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    try:
        _wait_for(f"http://127.0.0.1:{port}/moto-api/", server)
        boto3.client("s3").create_bucket(Bucket="sweeps")
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
        patch.undo()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url, server):
    for _ in range(300):
        assert server.poll() is None, "the S3 server ended"
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


def _requests():
    """Methods of all requests for objects that the server has answered, in order."""
    return re.findall(r"([A-Z]+) /sweeps", Path(os.environ["MOTO_LOG"]).read_text())


@pytest.fixture
def storage(endpoint, request):
    return open_storage(f"s3://sweeps/{request.node.name}")


def _folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_keys_are_written_once_replaced_listed_and_deleted(storage):
    assert storage.read("cells/a") is None
    assert storage.create("cells/a", b"1")
    assert not storage.create("cells/a", b"2")
    assert storage.read("cells/a") == b"1"
    storage.replace("cells/a", b"3")
    storage.replace("cells/deep/b", b"4")
    assert storage.read("cells/a") == b"3"
    assert storage.list("cells") == ["cells/a", "cells/deep/b"]
    assert storage.list("") == ["cells/a", "cells/deep/b"]
    assert storage.list("cell") == []  # a folder, not a prefix of letters
    storage.delete("cells/a")
    storage.delete("cells/a")
    assert not storage.has("cells/a")
    assert storage.has("cells/deep/b")


def test_reading_a_key_is_one_request_and_a_large_one_comes_by_ranges(storage, tmp_path, monkeypatch):
    storage.replace("cells/a", b"0123456789")
    storage.replace("cells/empty", b"")
    before = len(_requests())
    assert storage.read("cells/a") == storage.open("cells/a").read() == b"0123456789"
    assert storage.open("cells/empty").read() == b""
    assert storage.open("cells/none") is storage.read("cells/none") is None
    assert _requests()[before:] == ["GET"] * 5
    storage.publish("stages/k", _folder(tmp_path / "k", a="a" * 10, b="b"))
    before = len(_requests())
    assert (storage.fetch("stages/k") / "b").read_text() == "b"
    assert _requests()[before:] == ["GET"] * 3, "the manifest and two files"
    monkeypatch.setattr("raybench.storage.bucket.AT_ONCE", 4)
    large = storage.open("cells/a")
    assert (large.seek(8), large.read()) == (8, b"89")
    storage.publish("stages/large", _folder(tmp_path / "large", a="a" * 10, b="b"))
    assert (storage.fetch("stages/large") / "a").read_text() == "a" * 10


def test_hidden_and_empty_keys_are_refused(storage):
    for key in ("", "/", ".uploads/x", "a/../b"):
        with pytest.raises(ValueError, match="storage key"):
            storage.create(key, b"")


def test_an_entry_is_published_whole_fetched_and_deleted(storage, tmp_path):
    folder = _folder(tmp_path / "f", weights="w" * 1000, meta="{}")
    (folder / "sub").mkdir()
    (folder / "sub" / "c").write_text("c")
    assert storage.fetch("stages/k") is None
    assert storage.publish("stages/k", folder)
    assert not folder.exists()
    assert storage.list("stages") == ["stages/k"]
    assert storage.has("stages/k")
    assert storage.read("stages/k") is None  # an entry is fetched, not read
    copy = storage.fetch("stages/k")
    assert (copy / "weights").read_text() == "w" * 1000
    assert (copy / "sub" / "c").read_text() == "c"
    assert storage.fetch("stages/k") == copy
    assert not storage.publish("stages/k", _folder(tmp_path / "g", weights="other"))
    assert (storage.fetch("stages/k") / "weights").read_text() == "w" * 1000
    storage.delete("stages/k")
    assert storage.fetch("stages/k") is None
    assert storage.uploads() == {}


def test_a_damaged_entry_is_not_handed_out(storage, tmp_path):
    storage.publish("stages/k", _folder(tmp_path / "f", a="1", b="2"))
    (upload,) = storage.uploads()
    boto3.client("s3").delete_object(
        Bucket="sweeps", Key=f"{storage.url.removeprefix('s3://sweeps/')}/.uploads/{upload}/b"
    )
    assert storage.fetch("stages/k") is None


def _race(url, folder, number, start, results):
    storage = ObjectStorage(url)
    content = str(number)
    path = _folder(Path(folder) / content, **{f"file{i}": content for i in range(5)})
    start.wait()
    results.put((number, storage.publish("stages/raced", path)))


def test_racing_writers_converge_on_one_whole_entry(storage, tmp_path):
    start, results = SPAWN.Barrier(3), SPAWN.Queue()
    writers = [SPAWN.Process(target=_race, args=(storage.url, str(tmp_path), n, start, results)) for n in range(3)]
    for writer in writers:
        writer.start()
    outcome = dict(results.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join()
    winners = [number for number, first in outcome.items() if first]
    assert len(winners) == 1
    copy = storage.fetch("stages/raced")
    assert {path.read_text() for path in copy.iterdir()} == {str(winners[0])}
    assert len(list(copy.iterdir())) == 5
    assert set(storage.uploads()) == storage.committed()  # the losers cleaned up


def _die_before_commit(url, folder):
    storage = ObjectStorage(url)
    storage._commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    storage.publish("stages/killed", Path(folder))


def test_a_kill_between_upload_and_commit_leaves_nothing_visible(storage, tmp_path):
    folder = _folder(tmp_path / "f", a="half")
    victim = SPAWN.Process(target=_die_before_commit, args=(storage.url, str(folder)))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert len(storage.uploads()) == 1  # the upload was complete: only the commit is missing
    assert storage.committed() == set()
    assert not storage.has("stages/killed")
    assert storage.fetch("stages/killed") is None
    assert storage.list("") == []
    assert storage.leftovers(3600) == []  # too young: it might still be on its way
    (upload,) = storage.leftovers(0)
    assert storage.publish("stages/killed", _folder(tmp_path / "g", a="whole"))
    assert storage.leftovers(0) == [upload]
    storage.discard(upload)
    assert storage.leftovers(0) == []
    assert (storage.fetch("stages/killed") / "a").read_text() == "whole"


def test_one_lease_implementation_works_here_too(storage):
    first, second = Lease(storage, "k", ttl=5, heartbeat=0.2), Lease(storage, "k", ttl=5)
    assert first.acquire()
    assert not second.acquire()
    time.sleep(0.5)  # a heartbeat or two
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert storage.list("leases") == []


def test_a_stale_lease_is_taken_over(storage):
    dead = {"owner": "x", "time": time.time() - 100, "ttl": 5, "machine": "elsewhere", "pid": 1, "started": "1"}
    storage.create("leases/k/1", json.dumps(dead).encode())
    lease = Lease(storage, "k", ttl=5)
    assert lease.acquire()
    assert storage.list("leases/k") == ["leases/k/2"]
    lease.release()


def test_the_endpoint_can_travel_in_the_address(endpoint, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage = open_storage(f"s3://sweeps/travel?endpoint_override={endpoint}&scheme=http&region=us-east-1")
    check_writable(storage)
    assert storage.list("") == []


def test_a_missing_bucket_is_named(endpoint):
    with pytest.raises(UserError, match="'sweps'"):
        open_storage("s3://sweps/x")


def test_a_bucket_that_cannot_be_written_is_told_before_anything_is_stored(endpoint):
    boto3.client("s3").create_bucket(Bucket="locked")
    storage = open_storage("s3://locked/x")
    with answering(403, "AccessDenied", "no") as address:
        denied = open_storage(f"s3://locked/x?{address}")
        with pytest.raises(UserError, match=r"refuses bucket 'locked' \(AccessDenied: no\)"):
            check_writable(denied)
    assert storage.list("") == []


def test_nobody_at_the_address_is_told(endpoint):
    with pytest.raises(UserError, match="can't be reached"):
        open_storage(f"s3://sweeps/x?endpoint_override=127.0.0.1:{_free_port()}&scheme=http&region=us-east-1")


def test_other_schemes_are_refused():
    with pytest.raises(UserError, match="found scheme 'azure'"):
        open_storage("azure://x/y")
    with pytest.raises(UserError, match="s3://BUCKET/PREFIX"):
        open_storage("s3:///x")


def test_an_entry_or_a_file_set_aside_is_moved_whole(storage, tmp_path):
    storage.create("results/cell", b"row")
    storage.publish("stages/a", _folder(tmp_path / "a", **{"result.json": "{}", "weights": "1"}))
    with pytest.warns(DamageWarning, match="stages/a is damaged: why; it was set aside as damaged/stages/a-"):
        assert set_aside(storage, "stages/a", "why")
    with pytest.warns(DamageWarning, match="results/cell is damaged"):
        assert set_aside(storage, "results/cell", "why")
    assert not storage.has("stages/a")
    assert storage.read("results/cell") is None
    cell, entry = storage.list("damaged")
    assert (storage.fetch(entry) / "weights").read_text() == "1"
    assert storage.read(cell) == b"row"
    assert not storage.rename("stages/a", "elsewhere"), "nothing is there any more"
    assert not storage.leftovers(0), "the files belong to the entry under its new name"
    assert storage.publish("stages/a", _folder(tmp_path / "b", **{"result.json": "{}", "weights": "2"}))
    assert (storage.fetch("stages/a") / "weights").read_text() == "2"


def test_an_entry_without_a_readable_manifest_is_moved_too(storage, tmp_path):
    storage.publish("stages/a", _folder(tmp_path / "a", weights="1"))
    storage.replace(f"stages/a{ENTRY}", b"{")
    assert storage.fetch("stages/a") is None
    assert storage.rename("stages/a", "damaged/a")
    assert not storage.has("stages/a")
    assert storage.publish("stages/a", _folder(tmp_path / "b", weights="2"))


def test_a_damaged_local_copy_is_fetched_again_and_the_object_is_left_alone(storage, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "weights").write_text("1")
    sealed.write(folder, "result.json", {})
    storage.publish("stages/a", folder)
    copy = storage.fetch("stages/a")
    (copy / "weights").write_text("0")
    assert (storage.fetch("stages/a") / "weights").read_text() == "0", "the copy is used as it is"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sealed.intact(storage, "stages/a", "result.json")
    assert (found / "weights").read_text() == "1"
    assert (storage.fetch("stages/a", fresh=True) / "weights").read_text() == "1"
    assert storage.fetch("stages/none", fresh=True) is None


def test_a_damaged_object_is_set_aside(storage, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "weights").write_text("1")
    sealed.write(folder, "result.json", {})
    storage.publish("stages/a", folder)
    (upload,) = storage.committed()
    storage._bucket.put(f"{UPLOADS}/{upload}/weights", b"0")
    with pytest.warns(DamageWarning, match="weights: found other content than was written"):
        assert sealed.intact(storage, "stages/a", "result.json") is None
    assert not storage.has("stages/a")
