"""gs:// storage against an emulator on loopback, which is taught the one precondition that it lacks."""

import threading
from http import HTTPStatus

import pytest

from raybench.errors import UserError
from raybench.storage.leases import Lease
from raybench.storage.open import check_writable, open_storage

pytest.importorskip("google.cloud.storage")
server = pytest.importorskip("gcp_storage_emulator.server")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    patch = pytest.MonkeyPatch()
    upload = objects._multipart_upload

    def conditional(request, response, storage):
        if request.query.get("ifGenerationMatch") == ["0"]:
            try:
                storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
                response.status = HTTPStatus.PRECONDITION_FAILED
                return None
            except NotFound:
                pass
        return upload(request, response, storage)

    patch.setattr(objects, "_multipart_upload", conditional)
    running = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="sweeps")
    running.start()
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{running._api._httpd.server_port}")
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
