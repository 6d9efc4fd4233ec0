"""Stage 6: exact cost and latency of the pruned network. Latency is timed without other trials, or not at all."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raybench.errors import StageError
from raybench.groups.cost import count_macs
from raybench.pipeline.context import StageContext
from raybench.pipeline.exclusive import SHARED
from raybench.pipeline.network import example_of, model_of
from raybench.selection.records import Cut
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task

WARM_UP, REPEATS = 5, 30  # forward passes; latency is the median of the repeats


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of a forward pass of one image, of base and pruned network one right after the other."""

    base_ms: float | None
    pruned_ms: float | None
    reason: str | None  # why both are missing


def check_cost(model: nn.Module, cut: Cut, task: Task, device: torch.device) -> None:
    """Count the MACs and parameters of the pruned network; StageError when they are not what the cut predicted."""
    counted = count_macs(model, example_of(task.data, device))
    params = sum(p.numel() for p in model.parameters())
    if (counted, params) != (cut.macs, cut.params):
        raise StageError(
            "measure",
            f"the pruned network has {counted} MACs and {params} parameters, "
            f"the selection predicted {cut.macs} and {cut.params}",
        )


def latency(trial: Trial, dense: Path, model: nn.Module, task: Task, context: StageContext) -> Latency:
    """Time the dense network (of the stage folder `dense`) and the pruned `model`, batch 1."""
    base = model_of(dense, trial, task, context.device).eval()
    pruned = copy.deepcopy(model).eval()
    image = example_of(task.data, context.device)
    with context.machine.exclusive() as alone:
        if not alone:
            return Latency(None, None, SHARED)
        return Latency(_median_ms(base, image), _median_ms(pruned, image), None)


@torch.inference_mode()
def _median_ms(model: nn.Module, image: Tensor) -> float:
    """Median time of a forward pass, in milliseconds."""
    times = []
    for turn in range(WARM_UP + REPEATS):
        _wait_for(image.device)
        started = time.perf_counter()
        model(image)
        _wait_for(image.device)
        if turn >= WARM_UP:
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def _wait_for(device: torch.device) -> None:
    """Wait for queued GPU work; CPU work is done when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
