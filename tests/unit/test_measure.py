"""Activations against sums by hand, and the timings of 32 images when they can't be taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raybench.pipeline import measure
from raybench.pipeline.activations import peak_activations
from raybench.reports.cell_text import as_text
from tests.unit.result_rows import row

BYTES = 4  # of a float32


class Residual(nn.Module):
    """Two convolutions of 8 channels on 4x4 pixels and an addition; `a`, `b(a)` and the sum are alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return torch.relu(self.b(a) + a).flatten(1)


def chain(inplace: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(10, 100), nn.ReLU(inplace), nn.Linear(100, 5))


@pytest.mark.parametrize(
    ("model", "shape", "hand"),
    [
        (chain(inplace=False), (1, 10), 100 + 100),
        (chain(inplace=True), (1, 10), 100 + 5),
        (Residual(), (1, 3, 4, 4), 3 * 8 * 16),
        (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 16))), (1, 3, 4, 4), 0),  # views of the image
    ],
)
def test_activations_are_the_bytes_alive_at_the_same_time(model: nn.Module, shape: tuple[int, ...], hand: int) -> None:
    model.train()
    assert peak_activations(model, torch.zeros(shape)) == hand * BYTES
    assert all(module.training for module in model.modules())


def test_activations_of_torchs_encoder_are_those_inside_its_layers() -> None:
    """Its fast path is one operation that hides them: the hidden layer alone, before and after ReLU, is 2 x 64 wide."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 64, batch_first=True), 1).eval()
    assert peak_activations(model, torch.zeros(1, 5, 8)) >= 2 * 64 * 5 * BYTES
    assert torch.backends.mha.get_fastpath_enabled()


class OneOnly(nn.Module):
    """A network written for one image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, 4)


@pytest.mark.parametrize(("error", "reason"), [(None, "invalid for input of size 384"), (MemoryError(), "MemoryError")])
def test_a_network_that_takes_one_image_only_has_a_reason(error: Exception | None, reason: str) -> None:
    model = OneOnly()
    if error is not None:
        model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error))
    base, pruned, why = measure._many([model, model], torch.zeros(1, 12))
    assert (base, pruned) == (None, None)
    assert why is not None
    assert why.startswith("no pass of 32 images: ")
    assert reason in why


def test_32_images_are_timed_in_one_batch_and_slow_networks_once() -> None:
    seen: list[int] = []
    model = nn.Flatten()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    base, pruned, why = measure._many([model, model], [torch.zeros(1, 2)] * 2)
    assert base is not None
    assert pruned is not None
    assert why is None
    assert seen == [32] * 2 * (measure.MANY.warm_up + measure.MANY.repeats)
    seen.clear()
    measure.median_ms(model, torch.zeros(1, 2), measure.Pace(1, 10, most_s=0.0))
    assert seen == [1, 1]


def test_networks_that_are_compared_are_timed_in_turns() -> None:
    """Other load, which comes and goes, then strikes both."""
    seen: list[str] = []
    nets = [nn.Identity(), nn.Identity()]
    for net, name in zip(nets, "ab", strict=True):
        net.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    measure.medians_ms(nets, torch.zeros(1, 2), measure.Pace(1, 4, block=2))
    assert "".join(seen) == "ab" + "aabb" * 2


def test_show_prints_activations_and_throughput() -> None:
    measured = {
        "activations_base": 400_000,
        "activations": 150_000,
        "throughput": 1234.5,
        "batch_reason": "small device",
    }
    lines = [line.split() for line in as_text(row(**measured), (), "", 100).splitlines()]
    assert ["activations", "150,000", "bytes"] in lines
    assert ["throughput", "1234.5", "images/s"] in lines
    assert ["batch_reason", "small", "device"] in lines
