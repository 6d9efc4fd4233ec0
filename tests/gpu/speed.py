"""The lines of the check about speed: rows of bench_training and bench_copies, and what they say about the goals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from tests.benchmarks import bench_training, grid
from tests.benchmarks.bench_training import Case, Row
from tests.gpu.card import Line

ALL = ("no workers", "graphs", "all")  # words of the rows that the goals are about; compiled ones come later
STEPS = 16  # of an epoch: enough for what is captured and compiled to be over after the first


def case_of(device: torch.device, quick: bool, batch: int, only: tuple[str, ...], turns: int = 2) -> Case:
    """What is measured at a batch size; with --quick one step an epoch."""
    return Case(device, batch * (1 if quick else max(STEPS, 8192 // batch)), 1 if quick else turns, batch, only)


def trained(net: str, batch: int, device: torch.device, quick: bool) -> Iterator[Line]:
    """The rows of a network, what they reach of the goals, and how busy the GPU was."""
    case = replace(case_of(device, quick, batch, ALL), busy=device.type == "cuda")
    yield from with_goals(net, case, leave_out="compiled")


def compiled(net: str, batch: int, device: torch.device, quick: bool) -> Iterator[Line]:
    """The row of a dense network with torch.compile on top of everything."""
    case = case_of(device, quick, batch, ("bf16, all, compiled",), turns=1)
    yield from with_goals(net, replace(case, kinds=("dense",)))


def with_goals(net: str, case: Case, leave_out: str = "-") -> Iterator[Line]:
    """Lines of the rows as they come, and of the goals at the end."""
    found: list[Row] = []
    workers = bench_training.workers_of(case.device)
    loader = f"plain loop with {workers} loader processes"
    yield f"{net}, batch {case.batch}", True, f"{case.images} images an epoch, {loader}"
    yield from rows(net, replace(case, leave_out=leave_out), found)
    for line in bench_training.goals(found):
        yield "goal", True, line


def rows(net: str, case: Case, found: list[Row]) -> Iterator[Line]:
    """The rows of one network as lines, as they come; they are added to `found`."""
    for row in bench_training.measure(net, case):
        found += [row] if isinstance(row, Row) else []
        yield "", True, str(row)


def whole_grid(device: torch.device, quick: bool) -> Iterator[Line]:
    """How long the grid on CIFAR-100 would take, from a few epochs of its networks at its batch size."""
    found: list[Row] = []
    for net in grid.MODELS:
        case = case_of(device, quick, bench_training.BATCH, ("bf16, all",), turns=1)
        yield from rows(net, replace(case, leave_out="compiled"), found)
    for line in grid.lines(found):
        yield "grid", True, line


def copies(device: torch.device, quick: bool) -> Iterator[Line]:
    """1, 2, 4 and 8 copies of a training step side by side."""
    from tests.benchmarks import bench_copies  # what is planned needs modules that training doesn't

    for net in ("cifar-resnet20",) if quick else ("cifar-resnet20", "cifar-resnet18"):
        for row in bench_copies.rows(net, device, bench_training.BATCH):
            yield "copies", True, row


resnet18 = partial(trained, "resnet18", 512)
resnet20 = partial(trained, "resnet20", 128)
vgg19 = partial(trained, "vgg19", 512)
compiled_resnet18 = partial(compiled, "resnet18", 512)
compiled_vgg19 = partial(compiled, "vgg19", 512)
compiled_resnet20 = partial(compiled, "resnet20", 128)
