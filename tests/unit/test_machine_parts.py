"""The machine's lock step by step: which file is locked how, whose turn it is, and who is waited for how long."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from raybench.pipeline import exclusive
from raybench.pipeline.exclusive import SHARED, Machine, Turn

EX, SH = fcntl.LOCK_EX, fcntl.LOCK_SH


class Locks:
    """Locks of one machine that are only noted; those in `taken` are never got, and time is what the test says."""

    def __init__(self, machine: Machine, monkeypatch) -> None:
        self.log, self.taken, self.now = [], set(), 100.0
        self._names = {machine._gate: "gate", machine._node: "node"}
        monkeypatch.setattr(exclusive, "lock_by", self._lock)
        monkeypatch.setattr(exclusive.fcntl, "flock", self._flock)
        monkeypatch.setattr(exclusive.time, "monotonic", lambda: self.now)

    def _lock(self, handle: int, deadline: float, kind: int = EX) -> bool:
        self.log.append((self._names[handle], "shared" if kind == SH else "alone", max(0.0, deadline - self.now)))
        self.now += 1
        return self._names[handle] not in self.taken

    def _flock(self, handle: int, operation: int) -> None:
        assert operation == fcntl.LOCK_UN
        self.log.append((self._names[handle], "free"))

    def drain(self) -> list[tuple]:
        found, self.log = self.log, []
        return found


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path / "locks")


@pytest.fixture
def locks(machine, monkeypatch) -> Locks:
    return Locks(machine, monkeypatch)


ENTERING = [("gate", "shared", 10.0), ("node", "shared", 10.0), ("gate", "free")]


def test_files_and_folder_are_the_users_alone(tmp_path) -> None:
    before = os.umask(0)
    try:
        Machine(tmp_path / "locks")
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "locks").iterdir()} == {
        "gate.lock": 0o600, "node.lock": 0o600,
    }  # fmt: skip
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_private_is_left_alone(tmp_path, monkeypatch) -> None:
    changed, folder = [], tmp_path / "a"
    monkeypatch.setattr(Path, "chmod", lambda self, mode: changed.append((self, mode)))
    assert exclusive.own_folder(folder) == folder
    assert changed == []
    os.chmod(folder, 0o701)
    exclusive.own_folder(folder)
    assert changed == [(folder, 0o700)]


def test_computing_goes_through_the_gate_and_holds_the_node(machine, locks) -> None:
    with machine.computing() as found:
        assert found is machine
        assert locks.drain() == ENTERING
    assert locks.drain() == [("node", "free")]
    with pytest.raises(KeyError), machine.computing():
        raise KeyError
    assert locks.drain()[-1] == ("node", "free")


def test_a_turn_takes_the_gate_and_then_the_node(machine, locks) -> None:
    with machine.exclusive() as alone:
        assert alone
        assert locks.drain() == [("node", "free"), ("gate", "alone", 60.0), ("node", "alone", exclusive.LOOK_S)]
    assert locks.drain() == [("node", "free"), ("gate", "free"), *ENTERING]
    for taken, asked in (("gate", ["gate"]), ("node", ["gate", "node"])):
        locks.taken = {taken}
        with machine.exclusive(wait_s=5) as alone:
            assert not alone
            assert list(dict.fromkeys(name for name, *how in locks.drain() if how[0] == "alone")) == asked
            locks.taken = set()
    with pytest.raises(KeyError), machine.exclusive():
        raise KeyError
    assert locks.drain()[-5:] == [("node", "free"), ("gate", "free"), *ENTERING]


def test_work_gives_way_only_where_somebody_waits(machine, locks) -> None:
    said = []
    assert machine.give_way(lambda: said.append("done")) == 0.0
    assert locks.drain() == [("gate", "shared", 0.0), ("gate", "free")]
    locks.taken = {"gate"}

    def before() -> None:
        said.append("done")
        locks.log.append("before")
        locks.taken = set()
        locks.now += 50

    assert machine.give_way(before) == 2.0
    assert locks.drain() == [("gate", "shared", 0.0), "before", ("node", "free"), *ENTERING]
    assert said == ["done"]
    locks.taken = {"gate"}
    seen = []
    with machine.exclusive():
        locks.drain()
        assert machine.give_way(lambda: seen.append("done")) == 0.0
        assert locks.drain() == []
        locks.taken = set()
    locks.drain()
    machine.give_way()
    assert locks.drain() == [("gate", "shared", 0.0), ("gate", "free")], "its turn is over"
    assert seen == []
    assert not machine._own_turn


def test_a_timing_counts_if_the_turn_was_got_and_kept(machine, monkeypatch) -> None:
    turns = iter([[True, True], [False], [True, False]])

    class Given:
        def __init__(self, answers) -> None:
            self._answers = iter(answers)

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            return None

        def __bool__(self) -> bool:
            return next(self._answers)

    monkeypatch.setattr(machine, "exclusive", lambda: Given(next(turns)))
    made = []
    assert machine.timed(lambda: made.append(1) or 7) == (7, None)
    assert machine.timed(lambda: pytest.fail("timed beside others")) == (None, SHARED)
    assert machine.timed(lambda: made.append(2) or 7) == (None, SHARED)
    assert (made, SHARED) == ([1, 2], "the machine was shared with other trials")


def test_a_turn_ends_when_others_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exclusive.time, "monotonic", lambda: 100.0)
    file = tmp_path / "overrun"
    turn = Turn({}, file)
    for text, kept in ((None, True), ("x", True), ("99.5", True), ("100.0", False), ("101", False)):
        if text is not None:
            file.write_text(text)
        assert bool(turn) is kept
    assert not Turn(None, tmp_path / "none")


def test_who_is_stopped_is_waited_for_a_minute(machine, monkeypatch) -> None:
    now, said, asked = [100.0], [], []
    monkeypatch.setattr(exclusive.time, "monotonic", lambda: now[0])
    stopped, answers = iter([False, False, True, True, True]), iter([False] * 5)

    def lock(handle, deadline, kind) -> bool:
        asked.append((handle, deadline - now[0], kind))
        now[0] = deadline + 10  # each wait is longer than it should be
        return next(answers)

    monkeypatch.setattr(exclusive, "lock_by", lock)
    monkeypatch.setattr(exclusive, "_holder", lambda handle: {5: 7}.get(handle))
    monkeypatch.setattr(exclusive, "is_stopped", lambda pid: pid == 7 and next(stopped))
    machine._notice = said.append
    assert machine._wait_for(5) is False
    assert asked == [(5, 10.0, SH), *[(5, 5.0, SH)] * 3]
    assert said == [
        "process 7 takes a timing", "process 7 is stopped while it takes a timing: going on without it",
    ]  # fmt: skip


@pytest.mark.parametrize(("waited", "given_up"), [(60.0, False), (60.5, True)])
def test_a_minute_is_sixty_seconds(machine, monkeypatch, waited, given_up) -> None:
    now, answers = [100.0], iter([False, False, True])

    def lock(*args) -> bool:
        found = next(answers)
        now[0] = 100.0 + waited
        return found

    monkeypatch.setattr(exclusive.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(exclusive, "lock_by", lock)
    monkeypatch.setattr(exclusive, "_holder", lambda handle: 7)
    monkeypatch.setattr(exclusive, "is_stopped", lambda pid: True)
    assert machine._wait_for(5) is not given_up


def test_going_on_without_a_stopped_process_is_written_down(machine, locks, monkeypatch, tmp_path) -> None:
    waited = []
    monkeypatch.setattr(machine, "_wait_for", lambda handle: waited.append(handle) or handle == machine._gate)
    machine._enter()
    assert waited == [machine._gate, machine._node]
    assert (tmp_path / "locks/overrun").read_text() == "100.0"
    assert locks.drain() == [("gate", "free")]


def test_notices_are_those_of_the_present_work(machine, locks) -> None:
    said = []
    with machine.computing(said.append):
        machine._notice("a")
    with machine.computing():
        machine._notice("b")
    assert said == ["a"]


def test_the_list_of_locks_is_read_field_by_field(tmp_path, monkeypatch) -> None:
    file = SimpleNamespace(st_dev=os.makedev(8, 1), st_ino=77)
    system = SimpleNamespace(fstat=lambda handle: file, major=os.major, minor=os.minor)
    monkeypatch.setattr(exclusive, "os", system)
    for line, holder in (
        ("1: FLOCK  ADVISORY  WRITE 14 08:01:77 0 EOF", 14), ("1: FLOCK  ADVISORY  WRITE 14 08:01:77", 14),
        ("1: FLOCK  ADVISORY  WRITE 14", 0), ("1: FLOCK", 0), ("", 0), ("1: POSIX  ADVISORY  WRITE 14 08:01:77", 0),
        ("1: FLOCK  ADVISORY  READ 14 08:01:77", 0), ("1: FLOCK  ADVISORY  WRITE 14 08:01:78", 0),
        ("1: FLOCK  ADVISORY  WRITE 14 8:1:77", 0),
    ):  # fmt: skip
        monkeypatch.setattr(Path, "read_text", lambda self, line=line: line if str(self) == "/proc/locks" else "")
        assert exclusive._holder(3) == holder
