"""torch.compile for a training stage, where the time left pays for it, and its caches emptied afterwards."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raybench.error_text import first_line
from raybench.errors import counted
from raybench.tasks.training.computing import Computing

TIMED = 5  # plain steps that are timed first; the one before them warms up
WORTH = 5.0  # times the compile time that must be left
SECONDS_EACH = 2.0  # of compiling, for each layer with weights: 41 layers took 40 to 140 s on a CPU core in use


class Compiling:
    """The forward pass of one network: plain at first, compiled when that is worth it."""

    def __init__(self, steps: int) -> None:
        self._left, self._began, self._count = steps, 0.0, 0
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._tried = self._ran = False  # torch.compile; whether what it made has given outputs
        self._note = f"not compiled: {counted(steps, 'step')} left"

    @property
    def settled(self) -> bool:
        """Whether it is decided what runs the network, and that has run once."""
        return self._count > TIMED + 2

    def forward(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """What runs the network in the next step."""
        self._left -= 1
        self._count += 1
        if self._count == 2:
            self._began = _now(model)
        if self._count == TIMED + 2:
            self._decide(model, (_now(model) - self._began) / TIMED)
        return model if self._compiled is None else self._compiled  # a compiled module has no truth value

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
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            self._tried = True
            self._note = "compiled"
            self._compiled = self._guarded(torch.compile(model), model)

    def _guarded(self, compiled: Callable[[Tensor], Tensor], model: nn.Module) -> Callable[[Tensor], Tensor]:
        """`compiled`, which compiles at its first call and for new shapes; where that fails the network goes on plain.

        A network that is itself at fault then raises its error once more.
        """

        def run(images: Tensor) -> Tensor:
            started = 0.0 if self._ran else time.perf_counter()
            try:
                outputs = compiled(images)
            except Exception as error:  # compilers raise what they like
                why = first_line(error)
                self._compiled = None
                self._note = f"{self._note}, then no longer: {why}" if self._ran else f"not compiled: {why}"
                return model(images)
            if not self._ran:
                self._ran, self._note = True, f"forward compiled in {time.perf_counter() - started:.1f} s"
            return outputs

        return run


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
