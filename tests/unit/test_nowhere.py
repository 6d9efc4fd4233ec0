"""Addresses of nothing: told as mistakes, never shown as empty results or as tracebacks."""

import signal
import socket

import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.execution.cluster import _check_port, _own_sigterm


@pytest.mark.parametrize("rest", [["query", "SELECT 1"], ["gc"], ["leaderboard"], ["compare"], ["compact"]])
def test_a_folder_that_is_not_there(rest, tmp_path, capsys):
    nowhere = str(tmp_path / "nope")
    assert main([rest[0], nowhere, *rest[1:]]) == 2
    assert f"{nowhere!r}: there is no such folder" in capsys.readouterr().err


def test_a_host_name_with_an_empty_part():
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        _check_port("a..b:80")


def test_the_brackets_of_an_address_are_no_part_of_it(monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "create_connection", lambda where, timeout: asked.append(where) or socket.socket())
    _check_port("[::1]:6379")
    assert asked == [("::1", 6379)]


def test_sigterm_is_handled_as_before_after_ray_took_it():
    """Ray's `init` replaces the handler by one that ends the process at once; a run would keep its leases."""
    before = signal.signal(signal.SIGTERM, mine := lambda *_: None)
    try:
        with _own_sigterm():
            signal.signal(signal.SIGTERM, lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
