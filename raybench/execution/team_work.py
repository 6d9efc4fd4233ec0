"""What the processes of a team run: the first one runs units as any worker does, the others take part in them."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raybench.execution import worker
from raybench.execution.causes import DIED, cause_of
from raybench.execution.limits import own_this_process
from raybench.execution.mailbox import Mailbox
from raybench.execution.message import decode_grant, decode_unit, encode_outcome
from raybench.storage.open import open_storage

if TYPE_CHECKING:
    import torch

    from raybench.execution.isolation import MemoryBaseline
    from raybench.tasks.training.team import Peers

PAUSE_S = 5.0  # a process that fails waits so long before it says so: the one that failed first is heard first
POLL_S = 1.0


class Failed(Exception):
    """Plain text, as Ray pickles it; `kind` names a cause, or the type of an error."""

    def __init__(self, reason: str, kind: str) -> None:
        self.reason, self.kind = reason, kind
        super().__init__(reason, kind)


class PeerFailed(Failed):
    """Another process than the first raised an error."""


class Ended(Exception):
    """The first process has said its outcome, but is no longer where the others are: all are to be ended."""


def work(config: Mapping[str, Any]) -> None:
    """What every process of a team runs, until no unit comes any more. Ray Train has connected them.

    Args:
        config: `assignment` of the run, `device` (the kind of its units), `mailbox` and `stop_key`.
    """
    from ray import train

    from raybench.tasks.training.team import PeerLost, Peers

    own_this_process()
    assignment, mailbox, rank = config["assignment"], config["mailbox"], train.get_context().get_world_rank()
    process = f"{os.getpid()} on {socket.gethostname()}"
    mailbox.say(rank, process, ready=False)
    worker.install_plugins(assignment.plugins)
    worker.preload()
    from raybench.execution.isolation import MemoryBaseline

    device = _device(assignment, config["device"])
    assignment, team, baseline = replace(assignment, device=str(device)), Peers(device), MemoryBaseline()
    mailbox.say(rank, process, ready=True)
    host = socket.gethostname()
    elsewhere = team.agreed(host) != host
    try:
        if team.rank == 0:
            return _lead(team, assignment, mailbox, config["stop_key"], baseline)
        return _follow(team, assignment, baseline, elsewhere=elsewhere)
    except PeerLost:
        time.sleep(PAUSE_S if team.rank else 2 * PAUSE_S)
        if team.rank:
            return None
        raise
    except Exception as error:
        if not team.rank:
            raise
        time.sleep(PAUSE_S)
        raise portable(error) from None


def _lead(
    team: Peers, assignment: worker.Assignment, mailbox: Mailbox, stop_key: str, baseline: MemoryBaseline
) -> None:
    """Run units in the first process, each with the others waiting for its calls."""
    while (given := mailbox.take()) is not None:
        team.say(given)
        unit, own = decode_unit(given[0]), assignment.granting(decode_grant(given[1]))
        try:
            with stopped_by(assignment.storage, stop_key) as stopped:
                outcome = worker.execute(unit, own, team=team, asked=stopped.is_set)
        except KeyboardInterrupt:
            outcome = None
        if outcome is None or not team.whole:
            mailbox.answer(encode_outcome(outcome), last=True)
            raise Ended
        team.say(None)
        last = _too_large(team, baseline)
        mailbox.answer(encode_outcome(outcome), last=last)
        if last:
            return
    team.say(None)


def _follow(team: Peers, assignment: worker.Assignment, baseline: MemoryBaseline, *, elsewhere: bool) -> None:
    """Take part in the units of the first process. `elsewhere`: it is on another machine."""
    while (given := team.hear()) is not None:
        own = assignment.granting(decode_grant(given[1]))
        worker.take_part_in(decode_unit(given[0]), own, team, elsewhere=elsewhere)
        if _too_large(team, baseline):
            return


def _too_large(team: Peers, baseline: MemoryBaseline) -> bool:
    """Whether a unit left memory behind in one of the processes: all end then, and the next unit gets new ones."""
    return team.sums(float(bool(baseline.excess())))[0] > 0


def portable(error: Exception) -> PeerFailed:
    """`error` of a process other than the first, as it is sent to the trial."""
    cause = cause_of(error)
    return PeerFailed(f"{type(error).__name__}: {error}", type(error).__name__ if cause is DIED else cause.name)


def _device(assignment: worker.Assignment, kind: str) -> torch.device:
    """This process's own device: the GPU that Ray Train gave it, where the trial was planned for GPUs."""
    if kind != "cuda":
        return worker.device_of(assignment, kind)
    from ray.train.torch import get_device

    found: torch.device = get_device()
    return found


@contextmanager
def stopped_by(address: str, key: str) -> Iterator[threading.Event]:
    """Context of this thread in which it gets a KeyboardInterrupt once `key` exists in the storage at `address`.

    The event is set before that.

    Ray Train runs it in a thread of its own, which no signal reaches.
    """
    over, me, storage = threading.Event(), threading.get_ident(), open_storage(address)
    ending, stopped = threading.Lock(), threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            with suppress(OSError):
                if storage.has(key):
                    with ending:
                        if not over.is_set():
                            stopped.set()
                            interrupt = ctypes.py_object(KeyboardInterrupt)
                            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), interrupt)
                    return

    threading.Thread(target=watch, name="stop signal", daemon=True).start()
    try:
        yield stopped
    finally:
        with ending:
            over.set()
