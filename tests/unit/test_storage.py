"""Storage is whole or absent: races, kills and full disks."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from raybench.errors import UserError
from raybench.storage import leases, local
from raybench.storage.leases import Lease
from raybench.storage.local import LocalStorage
from raybench.storage.open import open_storage


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "root")


def folder_with(path: Path, text: str) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "a.txt").write_text(text)
    return path


def test_create_is_write_once_and_replace_is_not(storage):
    assert storage.read("a/b") is None
    assert storage.create("a/b", b"1")
    assert not storage.create("a/b", b"2")
    assert storage.read("a/b") == b"1"
    storage.replace("a/b", b"3")
    assert storage.read("a/b") == b"3"
    storage.delete("a/b")
    storage.delete("a/b")
    assert not storage.has("a/b")
    assert storage.list("a") == []


def test_entries_are_one_key_and_whole(storage, tmp_path):
    assert storage.publish("stages/k", folder_with(tmp_path / "one", "first"))
    assert not storage.publish("stages/k", folder_with(tmp_path / "two", "second"))
    assert not (tmp_path / "two").exists()
    assert (storage.fetch("stages/k") / "deep" / "a.txt").read_text() == "first"
    assert storage.list("stages") == ["stages/k"]
    assert storage.has("stages/k")
    assert not storage.has("stages")
    assert storage.fetch("stages/other") is None
    storage.delete("stages/k")
    assert storage.list("") == []


@pytest.mark.parametrize("key", ["", "/", "../x", "a/.hidden"])
def test_keys_that_leave_the_root_are_refused(storage, key):
    with pytest.raises(ValueError, match="storage key"):
        storage.read(key)


def test_a_full_disk_leaves_nothing(storage, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", full)
    for attempt in (
        lambda: storage.create("a", b"1"),
        lambda: storage.replace("a", b"1"),
        lambda: storage.publish("stages/k", folder_with(tmp_path / "one", "x")),
    ):
        with pytest.raises(OSError, match="No space"):
            attempt()
    assert storage.list("") == []
    assert list((storage.root / local.SCRATCH).iterdir()) == []


def race(root, turn, number, won):
    storage = LocalStorage(root)
    turn.wait()
    mine = folder_with(Path(root).parent / f"w{number}", str(number) * 1000)
    won.put((number, storage.create("race/file", str(number).encode() * 1000), storage.publish("race/entry", mine)))


def test_racing_writers_converge_on_one_whole_entry(storage):
    context = multiprocessing.get_context("fork")
    turn, won = context.Event(), context.Queue()
    rivals = [context.Process(target=race, args=(storage.root, turn, n, won)) for n in range(6)]
    for rival in rivals:
        rival.start()
    turn.set()
    results = [won.get(timeout=30) for _ in rivals]
    for rival in rivals:
        rival.join()
    [maker] = [n for n, created, _ in results if created]
    [publisher] = [n for n, _, published in results if published]
    assert storage.read("race/file") == str(maker).encode() * 1000
    assert (storage.fetch("race/entry") / "deep" / "a.txt").read_text() == str(publisher) * 1000


def test_a_kill_while_publishing_leaves_nothing_visible(storage, tmp_path):
    folder_with(tmp_path / "one", "x")
    child = os.fork()
    if child == 0:
        local._sync_tree = lambda top: os.kill(os.getpid(), signal.SIGKILL)
        storage.publish("stages/k", tmp_path / "one")
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not storage.has("stages/k")
    assert storage.list("") == []
    assert storage.publish("stages/k", tmp_path / "one")


def test_open_storage(tmp_path):
    assert open_storage(tmp_path / "x").url == str(tmp_path / "x")
    assert open_storage(f"file://{tmp_path}/a%20b").url == f"{tmp_path}/a b"
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="scheme 'ftp'"):
        open_storage("ftp://host/x")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="found a file"):
        open_storage(tmp_path / "file")


def test_one_holder_until_release(storage):
    with Lease(storage, "unit") as first:
        assert first.held
        assert not Lease(storage, "unit").acquire()
        assert Lease(storage, "other").acquire()
    again = Lease(storage, "unit")
    assert again.acquire()
    again.release()
    assert storage.list("leases/unit") == []


def test_a_live_holder_renews(storage):
    with Lease(storage, "unit", ttl=0.4, heartbeat=0.05):
        time.sleep(0.8)
        assert not Lease(storage, "unit").acquire()


def take_over(root, turn, won):
    lease = Lease(LocalStorage(root), "unit")
    turn.wait()
    won.put(lease.acquire())
    time.sleep(0.5)  # a holder that has exited is a dead one


def test_two_rivals_never_both_take_over_a_stale_lease(storage):
    context = multiprocessing.get_context("fork")
    for round_ in range(3):
        stale = {"owner": "x", "time": time.time() - 100, "ttl": 60, "machine": "gone", "pid": 1, "started": None}
        storage.replace("leases/unit/1", json.dumps(stale).encode())
        turn, won = context.Event(), context.Queue()
        rivals = [context.Process(target=take_over, args=(storage.root, turn, won)) for _ in range(6)]
        for rival in rivals:
            rival.start()
        turn.set()
        assert sum(won.get(timeout=30) for _ in rivals) == 1, round_
        for rival in rivals:
            rival.join()
        for key in storage.list("leases"):
            storage.delete(key)


def test_a_killed_holder_on_this_machine_is_taken_over_at_once(storage):
    child = os.fork()
    if child == 0:
        os._exit(0 if Lease(storage, "unit", ttl=3600).acquire() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert storage.list("leases")
    assert Lease(storage, "unit").acquire()


def test_a_holder_that_slept_notices_that_it_lost(storage, monkeypatch):
    sleeper = Lease(storage, "unit", ttl=0.2, heartbeat=0.5)
    assert sleeper.acquire()
    time.sleep(0.25)
    rival = Lease(storage, "unit")
    assert rival.acquire()
    time.sleep(0.6)
    assert sleeper.lost
    sleeper.release()
    assert leases.is_alive(json.loads(storage.read(storage.list("leases")[0])))
    rival.release()


def test_a_young_stage_does_not_wait_for_the_disk_and_a_resumed_or_older_one_does(storage, monkeypatch):
    pytest.importorskip("torch")
    from raybench.storage import checkpoints
    from raybench.storage.checkpoints import StageCheckpoint

    waited, replace, now = [], storage.replace, [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])

    def replaced(key, data, *, durable=True):
        waited.append(durable)
        replace(key, data, durable=durable)

    monkeypatch.setattr(storage, "replace", replaced)
    first = StageCheckpoint(storage, "unit")
    first.save({"epoch": 1})
    now[0] += checkpoints.YOUNG_S + 0.1
    first.save({"epoch": 2})
    second = StageCheckpoint(storage, "unit")
    assert second.load() == {"epoch": 2}
    second.save({"epoch": 3})
    assert waited == [False, True, True]


def test_checkpoint_keeps_the_last_whole_state(storage, monkeypatch):
    torch = pytest.importorskip("torch")
    from raybench.storage.checkpoints import StageCheckpoint

    checkpoint = StageCheckpoint(storage, "unit")
    assert checkpoint.load() is None
    checkpoint.save({"epoch": 1, "model": {"w": torch.ones(3)}, "note": "a"})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(local.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"epoch": 2, "model": {"w": torch.zeros(3)}})
    state = checkpoint.load()
    assert state["epoch"] == 1
    assert torch.equal(state["model"]["w"], torch.ones(3))
    checkpoint.clear()
    assert checkpoint.load() is None
    assert storage.list("checkpoints") == []
