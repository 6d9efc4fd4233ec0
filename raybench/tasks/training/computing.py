"""How a training stage computes: precision, memory format, kernels; chosen for one network on one device."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raybench.errors import counted
from raybench.models.strided import can_crash, strided_in_nchw
from raybench.sweep.speed import Precision, Speed
from raybench.tasks.training.products import products
from raybench.tasks.training.seeding import deterministic, seeded

WARM_UP, TIMED = 2, 3  # steps of each candidate in a probe
# share of NCHW's time that channels-last may take at most, so that near a tie runs choose the same; less on a CPU,
# whose numbers then differ from those of the default
CLEARLY = {"cpu": 0.95, "cuda": 0.97}


@dataclass(frozen=True)
class Computing:
    """How one training stage computes, with the names of the row's columns."""

    precision: Precision | Literal[""] = ""  # empty: torch's own settings
    memory_format: str = "nchw"
    deterministic: bool = True
    graphs: str = "off"
    compile: str = "off"
    speed_note: str = ""  # what was timed, and what fell back

    def noting(self, *notes: str, **changed: Any) -> Computing:
        """A copy with fields changed, and with the notes that this one lacks."""
        said = filter(None, dict.fromkeys((*self.speed_note.split("; "), *notes)))
        return replace(self, speed_note="; ".join(said), **changed)

    def by_the_clock(self) -> dict[str, str]:
        """What may have been timed, as a checkpoint keeps it: a stage that goes on doesn't choose anew."""
        return {"memory_format": self.memory_format, "speed_note": self.speed_note}

    def columns(self) -> dict[str, Any]:
        """The row's columns of these names; an empty note is None."""
        return asdict(self) | {"speed_note": self.speed_note or None}

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Context of forward passes."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    @property
    def strides(self) -> torch.memory_format:
        """Memory format of images and weights."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format


def choose(
    model: nn.Module,
    speed: Speed,
    device: torch.device,
    shape: tuple[int, ...],
    *,
    amp: bool,
    before: Mapping[str, Any] | None = None,
) -> Computing:
    """How to train `model` on batches of `shape` (b, c, h, w), from a trial's filled-in `speed`.

    `amp`: the stage asks for bfloat16 by itself. `before`: what `by_the_clock` said when this stage began, if it goes
    on from a checkpoint. What this device can't do falls back, and `speed_note` names it.
    """
    chosen = Computing(
        precision="bf16" if amp else speed.precision or "fp32",
        memory_format=speed.memory_format or "nchw",
        deterministic=bool(speed.deterministic) or device.type == "cpu",
        graphs=speed.graphs or "off",
        compile=speed.compile or "off",
    )
    chosen = _precision_of_device(chosen, device)
    if chosen.memory_format == "auto":
        chosen = replace(chosen, **before) if before else _with_format(chosen, model, device, shape)
    if chosen.graphs == "auto" and device.type != "cuda":
        chosen = chosen.noting(f"no graphs on {device.type}", graphs="off")
    return chosen


def plain_steps(chosen: Computing, why: str = "several processes") -> Computing:
    """`chosen` without graphs and compilation: in the middle of a step numbers are exchanged, or losses are added."""
    dropped = [name for name in ("graphs", "compile") if getattr(chosen, name) != "off"]
    return chosen.noting(*(f"no {name} with {why}" for name in dropped), **dict.fromkeys(dropped, "off"))


@contextmanager
def kernels(device: torch.device, computing: Computing) -> Iterator[None]:
    """Context with the kernels that `computing` names; nothing changes for the CPU."""
    if device.type != "cuda":
        yield
        return
    with deterministic(device) if computing.deterministic else _fastest(), products(computing.precision):
        yield


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Context of evaluation and scoring: deterministic kernels, float32 products that are no TF32."""
    with deterministic(device), products("fp32" if device.type == "cuda" else ""):
        yield


@contextmanager
def laid_out(model: nn.Module, strides: torch.memory_format) -> Iterator[None]:
    """Context in which the 4-d weights of `model` have these strides; afterwards they are NCHW, as files have them."""
    if strides is not torch.channels_last:
        yield
        return
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


def _precision_of_device(chosen: Computing, device: torch.device) -> Computing:
    """bf16 and TF32 need an Ampere GPU or newer; older ones compute in fp32."""
    if device.type != "cuda" or chosen.precision == "fp32" or torch.cuda.get_device_capability(device) >= (8, 0):
        return chosen
    return chosen.noting(f"no {chosen.precision} on {torch.cuda.get_device_name(device)}", precision="fp32")


def _with_format(chosen: Computing, model: nn.Module, device: torch.device, shape: tuple[int, ...]) -> Computing:
    """`chosen` with channels-last where it is clearly faster, and else with NCHW."""
    why = _unfit(model, device)
    if why:
        return chosen.noting(f"nchw: {why}", memory_format="nchw")
    formats = ("nchw", "channels_last")
    took = _milliseconds(model, [chosen.noting(memory_format=name) for name in formats], device, shape)
    fastest = formats[took[1] < took[0] * CLEARLY.get(device.type, CLEARLY["cuda"])]
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in zip(formats, took, strict=True))
    return chosen.noting(f"a step of {counted(shape[0], 'image')}: {times}", memory_format=fastest)


def _unfit(model: nn.Module, device: torch.device) -> str:
    """Why channels-last isn't tried; empty where it is."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return "no 2-d convolutions"
    if device.type != "cpu":
        return ""
    if any(map(can_crash, convolutions)):
        return "a strided 1x1 convolution has few channels"  # torch corrupts memory there
    return "grouped convolutions" if any(module.groups > 1 for module in convolutions) else ""


def _milliseconds(
    model: nn.Module, candidates: Sequence[Computing], device: torch.device, shape: tuple[int, ...]
) -> list[float]:
    """Median milliseconds of a forward and backward pass over random images for each of `candidates`.

    They work on copies of the network and take turns, so that other work on the machine slows all of them.
    """
    with seeded(device, "probe"), kernels(device, candidates[0]), ExitStack() as formats:
        images = torch.randn(shape, device=device)
        steps = [_step(formats, copy.deepcopy(model).train(), images, one) for one in candidates]
        took = [[_timed(step, device) for step in steps] for _ in range(WARM_UP + TIMED)]
    return [statistics.median(times) for times in zip(*took[WARM_UP:], strict=True)]


def _step(formats: ExitStack, net: nn.Module, images: Tensor, computing: Computing) -> Callable[[], None]:
    """A forward and backward pass of `net`, which is laid out until `formats` ends."""
    formats.enter_context(laid_out(net, computing.strides))
    formats.enter_context(strided_in_nchw(net))
    laid = images.contiguous(memory_format=computing.strides)

    def run() -> None:
        net.zero_grad()
        with computing.autocast(images.device):
            outputs = net(laid)
        _scalar(outputs).backward()

    return run


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of a step."""
    started = _now(device)
    step()
    return 1e3 * (_now(device) - started)


def _scalar(outputs: Any) -> Tensor:
    """The mean of a network's outputs."""
    if isinstance(outputs, Tensor):
        return outputs.float().mean()
    return torch.stack([_scalar(one) for one in outputs]).sum()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


@contextmanager
def _fastest() -> Iterator[None]:
    """Context in which cuDNN times its algorithms for every new shape and takes the fastest."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
