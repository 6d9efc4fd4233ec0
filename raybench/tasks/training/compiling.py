"""torch.compile for a training stage, where the time left pays for it, and its caches emptied afterwards."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raybench.error_text import first_line
from raybench.errors import RaybenchError, counted
from raybench.tasks.training.computing import Computing

TIMED = 5  # plain steps that are timed first; the one before them warms up
WORTH = 5.0  # times the compile time that must be left
SECONDS_EACH = 2.0  # of compiling, for each layer with weights: 41 layers took 40 to 140 s on a CPU core in use

T = TypeVar("T")
Forward = Callable[[Tensor], Tensor]


class Compiling:
    """The passes through one network: plain at first, compiled when that is worth it."""

    def __init__(self, steps: int) -> None:
        self._left, self._began, self._count = steps, 0.0, 0
        self._compiled: Forward | None = None
        self._tried = self._ran = False  # torch.compile; whether what it made has taken a step
        self._note = f"not compiled: {counted(steps, 'step')} left"

    @property
    def settled(self) -> bool:
        """Whether it is decided what runs the network, and that has run once."""
        return self._count > TIMED + 2

    def run(self, model: nn.Module, passes: Callable[[Forward], T]) -> T:
        """What `passes` gives for the next step; it is called with what runs the network forward.

        torch compiles at the first pass and for new shapes, forward and backward. Where that fails, the network's
        buffers and the random numbers are again what they were before the step, `passes` is called once more, and the
        network goes on plain. A network that is itself at fault then raises its error once more.
        """
        self._left -= 1
        self._count += 1
        if self._count == 2:
            self._began = _now(model)
        if self._count == TIMED + 2:
            self._decide(model, (_now(model) - self._began) / TIMED)
        if self._compiled is None:  # a compiled module has no truth value
            return passes(model)
        device = next(model.parameters()).device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return passes(self._compiled)  # nothing is computed yet; after a failure there is no graph
        return self._guarded(self._compiled, model, _Before(model, device), passes)

    def close(self, computing: Computing) -> Computing:
        """`computing` with what was done. Dynamo is reset: its limits count what a worker compiled before."""
        again = _compilations() - 1 if self._ran else 0
        if self._tried:
            torch._dynamo.reset()
        if self._compiled is None:
            return computing.noting(self._note, compile="off")
        return computing.noting(f"{self._note}, {counted(again, 'recompilation')}", compile="on")

    def _decide(self, model: nn.Module, seconds_a_step: float) -> None:
        layers = sum(1 for module in model.modules() if next(module.parameters(recurse=False), None) is not None)
        expected, left = SECONDS_EACH * layers, self._left * seconds_a_step
        if not _has_compiler(next(model.parameters()).device):
            self._note = "not compiled: no compiler"
        elif left < WORTH * expected:
            self._note = f"not compiled: {left:.0f} s left, compiling takes up to {expected:.0f} s"
        else:
            self._prepare(model)

    def _prepare(self, model: nn.Module) -> None:
        """Nothing is compiled yet, but the import alone makes the cache's folder."""
        try:
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            self._tried = True
            self._note = "compiled"
            self._compiled = torch.compile(model)
        except Exception as error:
            self._note = f"not compiled: {first_line(error)}"

    def _guarded(self, compiled: Forward, model: nn.Module, before: _Before, passes: Callable[[Forward], T]) -> T:
        started, handled = 0.0 if self._ran else time.perf_counter(), sys.exception()
        try:
            found = passes(compiled)
        except Exception as error:  # compilers raise what they like
            if (ours := _ours(error, handled)) is not None:
                raise ours from None
            why = first_line(error)
        else:
            if not self._ran:
                self._ran, self._note = True, f"first step compiled in {time.perf_counter() - started:.1f} s"
            return found
        self._compiled = None
        self._note = f"{self._note}, then no longer: {why}" if self._ran else f"not compiled: {why}"
        before.restore()
        return passes(model)


class _Before:
    """What the passes of a step change besides gradients: buffers, as statistics of batch norms, and random states."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._buffers, self._device = list(model.buffers()), device
        self._values = [buffer.detach().clone() for buffer in self._buffers]
        self._random = torch.get_rng_state()
        self._on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back, in place."""
        for buffer, value in zip(self._buffers, self._values, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(self._random)
        if self._on_device is not None:
            torch.cuda.set_rng_state(self._on_device, self._device)


def _ours(error: BaseException | None, handled: BaseException | None) -> RaybenchError | None:
    """The error of raybench behind one that a compiler raised: a time limit may end it in the middle.

    `handled`: what was being handled when the compiler was called; it is behind its errors, too.
    """
    while error is not None and error is not handled:
        if isinstance(error, RaybenchError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _compilations() -> int:
    """Graphs that dynamo has made since its counters were cleared."""
    counters: Any = torch._dynamo.utils.counters
    return int(counters["stats"].get("unique_graphs", 1))


def _now(model: nn.Module) -> float:
    """The time when the device has done what it was given: the host alone is far ahead of a GPU."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _has_compiler(device: torch.device) -> bool:
    """Whether there is one for C++, or for a GPU one for C, with which Triton builds what starts its kernels."""
    c, cpp = (os.environ.get("CC"), "gcc", "clang"), (os.environ.get("CXX"), "g++", "clang++")
    return any(shutil.which(name) for name in filter(None, c if device.type == "cuda" else cpp))
