"""Why a unit ended without a result, and how often it is started again because of that.

Told apart: memory that ran out, a node that left, a process that died, a stage that hung, and errors of the code, which
come back and are not tried again in the same run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from raybench.errors import short_of_memory
from raybench.progress.outcome import Outcome

MAX_ATTEMPTS = 3  # how often one run starts a unit whose process dies
MAX_MOVES = 20  # how often it moves from a node that leaves


@dataclass(frozen=True)
class Cause:
    """One reason.

    Attributes:
        name: the error type in the row of a cell that fails because of it.
        starts: how often one run starts a unit that ends this way.
        counts: whether a start counts; a node that leaves says nothing about the unit.
        alone: whether nothing else runs beside the unit when it is started again.
    """

    name: str
    starts: int
    counts: bool = True
    alone: bool = False


DIED = Cause("WorkerDied", MAX_ATTEMPTS)
MEMORY = Cause("OutOfMemory", 2, alone=True)
DEVICE_MEMORY = Cause("OutOfMemory", 2)  # of a GPU of which the unit had a share: it gets a larger one
NODE = Cause("NodeLost", MAX_MOVES, counts=False)
HUNG = Cause("StageTimeout", 1)

_NODE = re.compile(r"\bnode (has |was )?(died|dead|terminated|preempted|drained)|preempted|node_died", re.IGNORECASE)
_AWAY = "ActorUnavailableError"  # the connection to a node broke; of a process that dies its node says more
MONITOR = "Ray's memory monitor"
_IN_USE = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")  # in the words of Ray's memory monitor
_DEVICE = re.compile(r"\b(CUDA|HIP|GPU|CU\w+_STATUS_\w+)\b")


def cause_of(error: BaseException) -> Cause:
    """Why the process of a unit died, from Ray's error and those that it wraps."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = getattr(one, "cause", None) or one.__cause__ or one.__context__
    if any(short_of_memory(type(link).__name__, str(link)) for link in chain):
        return MEMORY
    if any(
        getattr(link, "preempted", False) or type(link).__name__ == _AWAY or _NODE.search(str(link)) for link in chain
    ):
        return NODE
    return DIED


def words_of(error: BaseException) -> str:
    """Type and last line of an error that Ray wrapped, without its traceback.

    Of an end by Ray's memory monitor, whose last line is about settings of Ray, one sentence.
    """
    text = str(error).strip()
    if "RAY_memory_usage_threshold" in text:
        found = _IN_USE.search(text)
        used = f": {found[1]} of {found[2]} GB were in use" if found else ""
        return f"{MONITOR} ended the process, as the machine's memory ran out{used}"
    lines = text.splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def ran_out_of_memory(outcome: Outcome) -> bool:
    """Whether a unit failed because memory ran out: of its device, which others may share, or of its process."""
    if outcome.status != "failed":
        return False
    return short_of_memory(outcome.error_type, outcome.error_message)


def of_device(outcome: Outcome) -> bool:
    """Whether it was the memory of a GPU: torch's own error, whose message names the kind of device."""
    return bool(_DEVICE.search(outcome.error_message))
