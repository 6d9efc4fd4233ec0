"""The check beside the start of Ray: its result, its errors and its death reach the run."""

import os
import signal
import time

import pytest

from raybench.errors import StageError, UserError
from raybench.execution import checking
from raybench.execution.driver import Run
from raybench.execution.worker import Assignment
from raybench.storage.open import open_storage


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "can_fork", lambda url: True)
    return Run(open_storage(tmp_path), Assignment(str(tmp_path)))


def test_the_result_comes_from_another_process(run, monkeypatch):
    monkeypatch.setattr(checking, "check", lambda work, units: {("digits", str(os.getpid())): len(units)})
    with checking.checking(run, [1, 2]) as checked:
        ((_, pid), count) = checked().popitem()
    assert int(pid) != os.getpid()
    assert count == 2


def test_without_a_fork_the_check_is_over_before_the_context(run, monkeypatch):
    monkeypatch.setattr(checking, "can_fork", lambda url: False)
    done = []
    monkeypatch.setattr(checking, "check", lambda work, units: done.append(os.getpid()) or {})
    with checking.checking(run, []) as checked:
        assert done == [os.getpid()]
        assert checked() == {}


def raising(error):
    def check(work, units):
        raise error

    return check


@pytest.mark.parametrize("error", [UserError("data_roots: no such folder"), KeyError("x")])
def test_an_error_is_raised_where_the_result_is_asked_for(run, monkeypatch, error):
    monkeypatch.setattr(checking, "check", raising(error))
    with checking.checking(run, []) as checked, pytest.raises(type(error)) as raised:
        checked()
    assert str(raised.value) == str(error)


def test_a_death_is_told_in_a_sentence(run, monkeypatch):
    monkeypatch.setattr(checking, "check", lambda work, units: os.kill(os.getpid(), signal.SIGKILL))
    with checking.checking(run, []) as checked, pytest.raises(StageError, match=r"died of SIGKILL .* while it checked"):
        checked()


def test_leaving_the_context_ends_the_process(run, monkeypatch, tmp_path):
    def endless(work, units):
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    monkeypatch.setattr(checking, "check", endless)
    with checking.checking(run, []):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
