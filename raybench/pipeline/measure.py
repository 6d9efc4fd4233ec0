"""Stage 6: what the pruned network is worth. Latency is taken alone on the machine, or not at all."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybench.errors import StageError
from raybench.pipeline import base
from raybench.pipeline.cost import count_macs
from raybench.pipeline.exclusive import SHARED
from raybench.pipeline.network import example_of, model_of
from raybench.pipeline.records import Cut
from raybench.pipeline.room import Room
from raybench.spec.trial import Trial
from raybench.tasks.protocol import Task

WARM_UP, REPEATS = 5, 30  # forward passes; the median of the repeats counts


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of one forward pass of one image, base and pruned in the same minute."""

    base_ms: float | None
    pruned_ms: float | None
    reason: str | None  # why they are missing


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


def latency(trial: Trial, model: nn.Module, task: Task, room: Room) -> Latency:
    """Time the dense base and the pruned `model` side by side, batch 1."""
    dense = model_of(base.load(trial, room).folder, trial, task, room.device).eval()
    slim = copy.deepcopy(model).eval()
    image = example_of(task.data, room.device)
    with room.node.exclusive() as alone:
        if not alone:
            return Latency(None, None, SHARED)
        return Latency(_median_ms(dense, image), _median_ms(slim, image), None)


@torch.inference_mode()
def _median_ms(model: nn.Module, image: Tensor) -> float:
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
    """CPU work is done when the call returns; a GPU's is only queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
