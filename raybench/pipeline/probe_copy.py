"""One copy of a training step, as a process (`python -m raybench.pipeline.probe_copy`); it reads a task from stdin."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raybench.errors import short_of_memory

MARK = "raybench-probe "  # at the start of its lines; libraries may print others
READY, GO, NO_MEMORY, ERROR = "ready", "go", "no memory", "error "
WARM_STEPS = 3  # kernels are chosen, memory is reserved
MEASURE_S = 5.0
LEAST_STEPS = 3


class NoMemory(Exception):
    """So many copies don't fit."""


def main() -> None:
    """Read a task as JSON, warm up, wait for GO, and write {memory_mb, step_s}."""
    task = json.loads(sys.stdin.readline())
    try:
        _measure(task)
    except Exception as error:
        short = short_of_memory(type(error).__name__, str(error))
        print(MARK + (NO_MEMORY if short else f"{ERROR}{type(error).__name__}: {_first_line(error)}"))


def _measure(task: Mapping[str, Any]) -> None:
    import torch

    device = torch.device(task["device"])
    torch.set_num_threads(task["threads"])
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(task["share"], device.index or 0)  # torch refuses plain `cuda`
    steps = _steps(task, device)
    for _ in range(WARM_STEPS):
        next(steps)
    _wait_for(device)
    print(MARK + READY, flush=True)
    sys.stdin.readline()
    began, count = time.perf_counter(), 0
    while count < LEAST_STEPS or time.perf_counter() - began < MEASURE_S:
        next(steps)
        _wait_for(device)
        count += 1
    step_s = (time.perf_counter() - began) / count
    print(MARK + json.dumps({"memory_mb": _memory_mb(device), "step_s": step_s}), flush=True)


def _steps(task: Mapping[str, Any], device: Any) -> Iterator[int]:
    """Training steps of the largest stage of the trial, without end."""
    from raybench import registry
    from raybench.pipeline.network import fresh_model
    from raybench.plan.shares import largest_stage
    from raybench.sweep.modules import reach_current_folder
    from raybench.sweep.trial import Trial
    from raybench.tasks.open import open_task

    for file in task["plugins"]:
        registry.add_plugin(Path(file))
    reach_current_folder()
    fields = task["trial"]
    fields["weights"]["path"] = task["weights"]
    trial = Trial.model_validate(fields)
    data = open_task(trial, {name: Path(root) for name, root in task["data_roots"].items()}, device)
    found: Iterator[int] = data.training_steps(fresh_model(trial, data, device), largest_stage(trial))  # type: ignore[attr-defined]
    return found


def _wait_for(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_mb(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    main()
