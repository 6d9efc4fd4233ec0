"""gs:// storage against moto's S3 server: Google's XML interface differs only in the header of a conditional PUT."""

import logging
import threading

import pytest

from raybench.errors import UserError
from raybench.storage.leases import Lease
from raybench.storage.open import check_writable, open_storage

pytest.importorskip("obstore")
pytest.importorskip("google.auth")
server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")


def _translated(application):
    """`application` with Google's precondition for "does not exist" replaced by the one of S3."""

    def called(environ, start_response):
        if environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        return application(environ, start_response)

    return called


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    dispatcher = server.DomainDispatcherApplication
    patch.setattr(
        "moto.moto_server.threaded_moto_server.DomainDispatcherApplication",
        lambda create: _translated(dispatcher(create)),
    )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    address, keys = f"http://{host}:{port}", {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys).create_bucket(Bucket="sweeps")
    patch.setenv("STORAGE_EMULATOR_HOST", address)
    patch.setenv("RAYBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    running.stop()
    patch.undo()


@pytest.fixture
def storage(emulator, request):
    return open_storage(f"gs://sweeps/{request.node.name}")


def _folder(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_keys(storage):
    assert storage.create("cells/a", b"1")
    assert not storage.create("cells/a", b"2")
    assert storage.read("cells/a") == storage.open("cells/a").read() == b"1"
    storage.replace("cells/a", b"3")
    assert storage.read("cells/a") == b"3"
    assert storage.list("cells") == ["cells/a"]
    storage.delete("cells/a")
    storage.delete("cells/a")
    assert storage.read("cells/a") is storage.open("cells/a") is None
    check_writable(storage)


def test_racing_writers_converge_on_one_whole_entry(storage, tmp_path):
    outcome, start = {}, threading.Barrier(3)

    def write(number):
        folder = _folder(tmp_path / str(number), a=str(number), b=str(number))
        start.wait()
        outcome[number] = storage.publish("stages/raced", folder)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (winner,) = (number for number, first in outcome.items() if first)
    assert {path.read_text() for path in storage.fetch("stages/raced").iterdir()} == {str(winner)}
    assert set(storage.uploads()) == storage.committed()
    storage.delete("stages/raced")
    assert storage.fetch("stages/raced") is None
    assert storage.uploads() == {}


def test_leases(storage):
    lease = Lease(storage, "k", ttl=5)
    assert lease.acquire()
    assert not Lease(storage, "k", ttl=5).acquire()
    lease.release()
    assert storage.list("leases") == []


def test_a_missing_bucket_is_named(emulator):
    with pytest.raises(UserError, match="'sweps'"):
        open_storage("gs://sweps/x")
