"""Runs copies of a training step in processes of their own, side by side on the device of a stage."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch

from raybench import registry
from raybench.pipeline.context import StageContext
from raybench.pipeline.probe_copy import ERROR, GO, MARK, NO_MEMORY, READY, NoMemory
from raybench.provenance import machine_memory
from raybench.sweep.trial import Trial

LIMIT_S = 900.0  # for all copies of one number, the start of their processes included


class SideBySide:
    """Copies of the training step of `trial` on the device of `context`. It was never run on a GPU, only on CPUs."""

    def __init__(self, trial: Trial, context: StageContext) -> None:
        self._trial, self._context = trial, context
        if context.device.type == "cuda":
            self.name = torch.cuda.get_device_name(context.device)
            self.total_mb = torch.cuda.mem_get_info(context.device)[1] / 2**20
        else:
            self.name = context.device.type
            self.total_mb = machine_memory() / 2**20

    def beside(self, copies: int) -> tuple[float, float]:
        """(peak MiB of the largest copy, mean seconds of a step in each) of `copies` at once; NoMemory."""
        processes = [_start(self._task(copies)) for _ in range(copies)]
        clock = threading.Timer(LIMIT_S, _kill, (processes,))
        clock.daemon = True
        clock.start()
        try:
            for process in processes:
                _answer(process, READY)
            for process in processes:
                _tell(process, GO)
            samples = [json.loads(_answer(process, "")) for process in processes]
        finally:
            clock.cancel()
            _kill(processes)
            for process in processes:
                process.communicate()
        return max(one["memory_mb"] for one in samples), sum(one["step_s"] for one in samples) / copies

    def _task(self, copies: int) -> str:
        """The task of one copy, as JSON."""
        trial = self._trial
        entries = (registry.model.entries().get(trial.model), registry.dataset.entries().get(trial.dataset))
        task: dict[str, Any] = {
            "trial": trial.model_dump(mode="json"),
            "weights": trial.weights.path,
            "device": str(self._context.device),
            "threads": max(1, int(self._context.cpus)),
            "share": 1 / copies,
            "data_roots": {name: str(root) for name, root in self._context.data_roots.items()},
            "plugins": [str(entry.file) for entry in entries if entry is not None and not entry.module],
        }
        return json.dumps(task)


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()


def _start(task: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raybench.pipeline.probe_copy"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, **pipes)
    _tell(process, task)
    return process


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except OSError:  # it has ended: its answer is missing
        return


def _answer(process: subprocess.Popen[str], expected: str) -> str:
    """The rest of its next line that starts with MARK and `expected`. NoMemory, or RuntimeError for anything else."""
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith(MARK):
            continue  # a library printed it
        text = line.removeprefix(MARK).strip()
        if text == NO_MEMORY:
            raise NoMemory
        if text.startswith(ERROR):
            raise RuntimeError(text.removeprefix(ERROR).strip())
        if text.startswith(expected):
            return text.removeprefix(expected)
    raise RuntimeError(f"a copy ended without an answer, or took longer than {LIMIT_S:g} s")
