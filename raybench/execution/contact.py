"""Watches whether the head of the Ray cluster answers; ends the run in one sentence when it no longer does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raybench.errors import RaybenchError

PERIOD_S = 3.0
ANSWER_S = 5.0
NOTICE_S = 10.0  # without an answer, until a line is printed
LOST_S = 45.0  # until the run ends: Ray itself aborts the process after 60 s, without a word about what to do
HERE_S = 12.0  # the same for a Ray that was started on this machine, which nobody starts again


class ClusterLost(RaybenchError):
    """The Ray cluster of a run is gone. What has finished is in the storage."""


@contextmanager
def contact(
    head: str, address: str | None, say: Callable[[str], None], lost: Callable[[ClusterLost], None]
) -> Iterator[None]:
    """Context in which a thread asks whether the head answers.

    Args:
        head: HOST:PORT of the cluster's GCS.
        address: as the user typed it; None for a Ray on this machine.
        say: called with a sentence when the head doesn't answer for a while, and when it does again.
        lost: called, in that thread, when it won't any more.
    """
    done = threading.Event()
    words = (head, address, say, lost, done)
    threading.Thread(target=_watch, args=words, name="contact with the cluster", daemon=True).start()
    _heads.append(head)
    try:
        yield
    finally:
        _heads.remove(head)
        done.set()


_heads: list[str] = []  # of the contacts of this process


def was_away() -> bool:
    """Wait until the head answers; returns whether it didn't at first. False where there is no `contact`."""
    away = False
    while _heads and not _answers(_heads[-1]):
        away = True
        time.sleep(PERIOD_S / 3)  # `lost` ends this thread when it takes too long
    return away


def _watch(
    head: str,
    address: str | None,
    say: Callable[[str], None],
    lost: Callable[[ClusterLost], None],
    done: threading.Event,
) -> None:
    name = f"the Ray cluster at {address}" if address else "the Ray of this run, on this machine,"
    limit = LOST_S if address else HERE_S
    last, announced = time.monotonic(), False
    while not done.wait(PERIOD_S):
        silent = time.monotonic() - last
        if _answers(head):
            if announced:
                say(f"{name} answers again")
            last, announced = time.monotonic(), False
        elif silent > limit:
            lost(lost_cluster(f"{name} was lost: its head hasn't answered for {silent:.0f} s"))
            return
        elif silent > NOTICE_S and not announced:
            say(f"{name} hasn't answered for {silent:.0f} s: waiting {limit - silent:.0f} s more")
            announced = True


def lost_cluster(what: str) -> ClusterLost:
    """The error that says `what` happened, and how to go on."""
    return ClusterLost(f"{what}. Finished cells are stored; the same command runs the others")


def _answers(head: str) -> bool:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True
