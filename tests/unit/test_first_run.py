"""What the first runs of a network show: every mistake in whole sentences, and a network that is left as it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported, UserError
from raybench.groups import first_run
from raybench.groups.first_run import check_image, check_ready, check_runs, raise_if_out_of_memory, run_once

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, then `after`."""

    def __init__(self, after: Callable[[Tensor], object] = torch.relu) -> None:
        super().__init__()
        self.conv, self.more, self.after = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), after

    def forward(self, x: Tensor) -> object:
        return self.after(self.more(self.conv(x)))


def refusal_of(model: nn.Module, image: Tensor = IMAGE) -> str:
    """The message of the error, without places in files."""
    with pytest.raises((UserError, NotSupported)) as caught:
        check_runs(model, image)
    return re.sub(r" \(\S+:\d+\)", "", str(caught.value))


def large(least: int) -> Callable[[Tensor], Tensor]:
    def after(x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < least - 2:
            raise ValueError("too small.")
        return x

    return after


def small(most: int) -> Callable[[Tensor], Tensor]:
    def after(x: Tensor) -> Tensor:
        if max(x.shape[-2:]) > most - 2:
            raise ValueError("too large")
        return x

    return after


class Two(Net):
    def forward(self, x: Tensor, mask: Tensor, scale: float, bias: float = 0, *rest: int, **more: int) -> Tensor:
        return self.conv(x) * mask * scale


class NoInput(Net):
    def forward(self) -> Tensor:
        return self.conv.weight


class OnlyEmpty(Net):
    """Takes no images, and runs on none: an integer, a vector."""

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit("no")


def circle(x: Tensor) -> dict:
    found: dict = {"all": [x, (x,)]}
    found["again"] = [[found]]
    return found


EXPLAINED: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "half": (
        lambda: Net().half(), IMAGE,
        "Net has weights of float16; found images of float32. Convert the network with `.float()`; prune first and "
        "lower the precision afterwards",
    ),
    "double": (
        Net, IMAGE.double(),
        "Net has weights of float32; found images of float64. Convert the network with `.float()`; prune first and "
        "lower the precision afterwards",
    ),
    "two inputs": (
        Two, IMAGE,
        "Two: its forward takes x and mask and scale, and is called with one batch of images alone; give the others "
        "defaults, or wrap the network in one that takes images",
    ),
    "no input": (
        NoInput, IMAGE,
        "NoInput: its forward takes no images, and is called with one batch of images alone; give the others defaults, "
        "or wrap the network in one that takes images",
    ),
    "vectors": (
        lambda: Net(large(99)), IMAGE[0],
        "Net doesn't run on an input (3, 8, 8): too small. Give an example as it takes it",
    ),
    "whole numbers": (
        OnlyEmpty, torch.ones(1, 3, 8, 8, dtype=torch.int64),
        "OnlyEmpty doesn't run on an input (1, 3, 8, 8): SystemExit: no. Give an example as it takes it",
    ),
    "no size": (
        OnlyEmpty, IMAGE,
        "OnlyEmpty doesn't run on images of 8x8: SystemExit: no. It runs on no size from 32 to 384 that was tried; see "
        "its forward",
    ),
    "too small": (
        lambda: Net(large(65)), IMAGE[..., :6],
        "Net doesn't run on images of 8x6: too small. It runs on 96x96; give larger images, or build the network for "
        "this size",
    ),
    "too large": (
        lambda: Net(small(64)), torch.rand(1, 3, 130, 130),
        "Net doesn't run on images of 130x130: too large. It runs on 32x32; give smaller images, or build the network "
        "for this size",
    ),
    "one channel": (
        Net, IMAGE[:, :1],
        "Net doesn't run on images of 8x8 with 1 channel: Given groups=1, weight of size [4, 3, 3, 3], expected "
        "input[2, 1, 8, 8] to have 3 channels, but got 1 channels instead. It runs on 8x8 with 3 channels; give such "
        "images, or build the network for these",
    ),
    "circle": (
        lambda: Net(circle), IMAGE,
        "Net: the dict that its forward returns holds itself, so it can't be searched for tensors; return tensors, or "
        "a dict, list or tuple of tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
def test_why_a_network_does_not_run_is_told_with_what_to_do(name: str) -> None:
    make, image, message = EXPLAINED[name]
    assert refusal_of(make(), image) == message


def test_a_network_that_runs_on_several_images_only_is_refused() -> None:
    def never_one(x: Tensor) -> Tensor:
        if len(x) == 1:
            raise ValueError("several, please")
        return x

    assert refusal_of(Net(never_one)) == (
        "Net runs on 2 images and not on one: several, please. Its forward names the batch size, or loses an axis of "
        "length one (`squeeze()`); MACs are counted for one image. Read sizes from `x.shape`, and squeeze named axes"
    )
    check_runs(Net(), IMAGE[:1])


def test_sizes_near_the_given_one_are_tried_first_and_not_for_ever(monkeypatch) -> None:
    tried: list[tuple[int, ...]] = []

    def noting(model: nn.Module, example: Tensor) -> Counter[str]:
        tried.append(tuple(example.shape))
        raise ValueError

    monkeypatch.setattr(first_run, "run_once", noting)
    assert first_run._shape_that_runs(Net(), torch.rand(2, 5, 100, 90)) is None
    sizes = (96, 128, 160, 192, 224, 256, 299, 384, 32, 64)
    assert tried == [(2, 3, n, n) for n in (90, *sizes)] + [(2, 5, n, n) for n in sizes]
    tried.clear()
    assert first_run._shape_that_runs(nn.Sequential(nn.ReLU()), torch.rand(1, 5, 100, 90)) is None
    assert tried == [(1, 5, n, n) for n in sizes]
    tried.clear()
    monkeypatch.setattr(first_run, "MOST_SECONDS", -1.0)
    assert first_run._shape_that_runs(Net(), torch.rand(2, 5, 100, 90)) is None
    assert tried == []


def test_arguments_that_images_alone_do_not_fill() -> None:
    assert first_run._needed(Two()) == "x and mask and scale"
    assert first_run._needed(NoInput()) == "no images"
    assert first_run._needed(Net()) == ""
    odd = Net()
    odd.forward = 3  # type: ignore[assignment]
    assert first_run._needed(odd) == ""


class Aux(Net):
    """A layer of its own for training, which takes `least` images."""

    def __init__(self, least: int = 0) -> None:
        super().__init__()
        self.aux, self.least, self.norm = nn.Conv2d(4, 2, 1), least, nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < self.least:
            raise ValueError
        x = self.norm(self.conv(x))
        return self.aux(x) if self.training else self.more(x)


def test_layers_of_training_may_read_what_the_author_keeps_whole() -> None:
    check_runs(Aux().eval(), IMAGE, vouched={"aux"})


def test_layers_that_run_in_training_only_are_named() -> None:
    message = (
        "can't group Aux: aux runs in training only, so a pass for tracing doesn't show what it reads. Build the "
        "network without such heads (torchvision: `aux_logits=False`)"
    )
    model = Aux(least=4).eval()
    model.conv.train()
    draws = torch.get_rng_state()
    assert refusal_of(model) == message
    assert [name for name, module in model.named_modules() if module.training] == ["conv"]
    assert torch.equal(model.norm.running_mean, torch.zeros(4))
    assert model.norm.num_batches_tracked == 0
    assert torch.equal(draws, torch.get_rng_state())
    check_runs(Aux(least=5), IMAGE)  # a training pass that fails shows nothing
    never = Net()
    never.unused = nn.Linear(2, 2)
    check_runs(never, IMAGE)


class Gate(Net):
    """Runs `more` for images that are `wanted`."""

    def __init__(self, wanted: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.wanted = wanted

    def forward(self, x: Tensor) -> Tensor:
        return self.more(self.conv(x)) if self.wanted(x) else self.conv(x)


def test_layers_that_depend_on_the_image_are_named() -> None:
    for wanted in (lambda x: bool(x.min() < -1), lambda x: bool(x.min() > -1)):
        assert refusal_of(Gate(wanted)) == (
            "can't group Gate: which layers run depends on what the image shows (more ran for one image and "
            "not for another), so no run shows where all channels go"
        )
    bright, dark = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    with pytest.raises(NotSupported, match="which layers run depends on what the image shows"):
        check_image(Gate(lambda x: bool(x.min() > 0)), dark, bright)
    check_image(Gate(lambda x: bool(x.min() > 0)), bright, bright + 1)

    def refusing(x: Tensor) -> bool:
        if x.min() < -1:
            raise KeyError("not like my images")
        return True

    check_runs(Gate(refusing), IMAGE)


def test_one_run_counts_the_calls_of_every_module_and_restores_buffers() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.ReLU())
    model.append(model[1])
    counter = nn.Module()
    counter.register_buffer("seen", torch.zeros(1))
    counter.forward = lambda x: (counter.seen.add_(1), x)[1]  # type: ignore[method-assign]
    model.append(counter)
    assert run_once(model.train(), IMAGE) == Counter({"": 1, "0": 1, "1": 2, "3": 1})
    assert counter.seen == 0
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("output", [[1, (2, 2), {"a": [2]}], {"a": (1, 1)}, 3, (), {"x": {}, "y": [[], []]}])
def test_outputs_that_do_not_hold_themselves(output: object) -> None:
    same = [1]
    assert not first_run._holds_itself(output)
    assert not first_run._holds_itself([same, same, (same, {"a": same})])


def test_lists_that_hold_themselves() -> None:
    deep: list = [[1]]
    deep[0].append({"a": (1, deep)})
    inner: list = []
    inner.append(inner)
    assert first_run._holds_itself(deep)
    assert first_run._holds_itself({"a": 1, "b": inner})


def test_what_has_no_shape_or_no_values_is_named() -> None:
    lazy, slim = nn.Sequential(nn.LazyLinear(3)), nn.Sequential(nn.Linear(3, 3, device="meta"))
    script = torch.jit.script(nn.ReLU())
    for model, message in (
        (lazy, "Sequential: 0.weight has no shape yet (a lazy module); run the network on one image first"),
        (slim, "Sequential: 0.weight has a shape and no values (device meta); build the network on a CPU or GPU"),
        (
            nn.Sequential(script),
            "Sequential: its 0 is TorchScript, whose layers can't be changed; build the network in Python",
        ),
        (
            script,
            "RecursiveScriptModule: it is TorchScript, whose layers can't be changed; build the network in Python",
        ),
    ):
        with pytest.raises(UserError) as caught:
            check_ready(model)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape '[1]' is invalid"), False),
        (ValueError("memory"), False),
    ],
)
def test_short_memory_is_passed_on(error: Exception, short: bool) -> None:
    if not short:
        raise_if_out_of_memory(error)
        return
    with pytest.raises(type(error)):
        raise_if_out_of_memory(error)
