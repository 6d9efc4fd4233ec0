"""Stage 6: exact cost, activations and latency of the pruned network. Latency is timed alone, or not at all."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybench.error_text import first_line
from raybench.errors import StageError
from raybench.groups.cost import count_macs, params_of
from raybench.pipeline.activations import peak_activations
from raybench.pipeline.context import StageContext
from raybench.pipeline.network import example_of
from raybench.selection.records import Cut
from raybench.tasks.protocol import Task

BATCH = 32  # images of the second latency and of the throughput


@dataclass(frozen=True)
class Pace:
    """How often a forward pass is repeated; latency is the median of the repeats."""

    warm_up: int
    repeats: int
    block: int = 1  # passes of one network before the turn of the next
    most_s: float = float("inf")  # no repeat begins after this many seconds of repeats; one is always timed


ONE, MANY = Pace(5, 30, block=5), Pace(1, 5, most_s=2.0)  # of one image, of BATCH images


@dataclass(frozen=True)
class Footprint:
    """What a forward pass takes, of base and pruned network; times in milliseconds, taken in turns."""

    activations_base: int  # peak bytes, one image
    activations: int
    base_ms: float | None  # one image
    pruned_ms: float | None
    reason: str | None  # why both are missing
    many_base_ms: float | None  # BATCH images
    many_pruned_ms: float | None
    many_reason: str | None


def check_cost(model: nn.Module, cut: Cut, task: Task, device: torch.device) -> None:
    """Count the MACs and parameters of the pruned network; StageError when they are not what the cut predicted."""
    counted = count_macs(model, example_of(task.data, device))
    params = params_of(model)
    if (counted, params) != (cut.macs, cut.params):
        raise StageError(
            "measure",
            f"the pruned network has {counted} MACs and {params} parameters, "
            f"the selection predicted {cut.macs} and {cut.params}",
        )


def footprint(dense: nn.Module, model: nn.Module, task: Task, context: StageContext) -> Footprint:
    """Measure the `dense` network and the pruned `model`: activations, then timings."""
    nets = [dense.eval(), copy.deepcopy(model).eval()]
    images = [example_of(data, context.device) for data in (task.data.own, task.data)]
    base_bytes, pruned_bytes = (peak_activations(net, image) for net, image in zip(nets, images, strict=True))
    found, reason = context.machine.timed(lambda: (medians_ms(nets, images, ONE), _many(nets, images)))
    if found is None:
        return Footprint(base_bytes, pruned_bytes, None, None, reason, None, None, reason)
    (base_ms, pruned_ms), many = found
    return Footprint(base_bytes, pruned_bytes, base_ms, pruned_ms, None, *many)


def _many(nets: Sequence[nn.Module], one: Sequence[Tensor]) -> tuple[float | None, float | None, str | None]:
    """(Milliseconds of the dense network, of the pruned one, None) at BATCH images, or why there are none."""
    try:
        images = [image.repeat(BATCH, *[1] * (image.dim() - 1)) for image in one]
        base, pruned = medians_ms(nets, images, MANY)
    except Exception as error:  # a network may refuse a batch with any error; one image was no problem
        if one[0].device.type == "cuda":
            torch.cuda.empty_cache()
        why = first_line(error)
        return None, None, f"no pass of {BATCH} images: {why}"
    return base, pruned, None


def median_ms(model: nn.Module, images: Tensor, pace: Pace) -> float:
    """Median time of a forward pass, in milliseconds."""
    return medians_ms([model], [images], pace)[0]


@torch.inference_mode()
def medians_ms(models: Sequence[nn.Module], images: Tensor | Sequence[Tensor], pace: Pace) -> list[float]:
    """Median time of a forward pass of each of `models`, in milliseconds.

    They take turns, so that other load on the machine, which comes and goes, strikes all of them. `images`: the same
    for all, or a batch for each.
    """
    inputs = images if isinstance(images, Sequence) else [images] * len(models)
    times: list[list[float]] = [[] for _ in models]
    for model, batch in zip(models, inputs, strict=True):
        for _ in range(pace.warm_up):
            _milliseconds(model, batch)
    while len(times[-1]) < pace.repeats and max(map(sum, times)) <= pace.most_s * 1e3:
        for model, batch, own in zip(models, inputs, times, strict=True):
            own += [_milliseconds(model, batch) for _ in range(pace.block)]
    return [statistics.median(own) for own in times]


def _milliseconds(model: nn.Module, images: Tensor) -> float:
    """Milliseconds of one pass: on a GPU between two events of its stream, without the host's part of waiting."""
    if images.device.type != "cuda":
        started = time.perf_counter()
        model(images)
        return (time.perf_counter() - started) * 1e3
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(images.device)
    start.record()
    model(images)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
