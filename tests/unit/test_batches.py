"""Batches of a training epoch: the numbers of drawing image by image, few operator calls, nothing that waits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from raybench import registry
from raybench.datasets.data import Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.batches import training_batches
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.draws import Draws, draw_batch, moved_to
from raybench.tasks.training.ema import Average
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.optimize import make_optimizer
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.randaugment import operation_draws, with_operations
from raybench.tasks.training.scale import Scale
from raybench.tasks.training.seeding import generator
from raybench.tasks.training.steps import Stepper

CPU = torch.device("cpu")
SCALE = Scale.of((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), CPU)
MOST_CALLS = 12  # of operators, for the input work of a batch
MOST_OF_ALL = 16  # the same with two moves and everything else, but for RandAugment
MOST_RANDAUGMENT = 181  # two rounds of 14 operations


def recipe(**options) -> TrainRecipe:
    return TrainRecipe(**{"epochs": 1, "lr": 0.1, "batch_size": 8, **options})


def images(kind: str = "bytes", count: int = 40, size: int = 16) -> TensorImages:
    """A split whose images lie in another order among others."""
    draw = generator("batches")
    values = torch.randint(0, 256, (count + 9, 3, size, size), generator=draw, dtype=torch.uint8)
    chosen = torch.randperm(count + 9, generator=draw)[:count]
    return TensorImages(Pixels(values if kind == "bytes" else values / 255), torch.arange(count + 9) % 3, chosen)


def one_by_one(found: TensorImages, order, options: TrainRecipe, draw) -> list[Tensor]:
    """Pixels of each batch by the loops that came first: one image after another, in floats."""
    batches = []
    for indices in order:
        pixels = next(found.batches([indices], CPU, None))
        for name, most in (("shift", 1), ("crop", 2)):
            if name in options.augment:
                tops, lefts = torch.randint(0, 2 * most + 1, (2, len(pixels)), generator=draw).tolist()
                padded = F.pad(pixels, (most,) * 4)
                pixels = torch.stack(
                    [p[:, y : y + 16, x : x + 16] for p, y, x in zip(padded, tops, lefts, strict=True)]
                )
        if "flip" in options.augment:
            mirror = (torch.rand(len(pixels), generator=draw) < 0.5).tolist()
            pixels = torch.stack([p.flip(2) if turn else p for p, turn in zip(pixels, mirror, strict=True)])
        batches.append((pixels - SCALE.mean) / SCALE.std)
    return batches


@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("shift", "crop"), ("crop", "flip"),
                                     ("flip", "shift", "crop")])  # fmt: skip
def test_batches_are_those_of_one_image_after_another(kind, augment):
    found, order = images(kind), torch.randperm(40, generator=generator(0)).tensor_split(4)
    expected = one_by_one(images(kind), order, recipe(augment=augment), generator(5))
    for _ in range(2):  # the second epoch reads from inside the black margin
        mixed = list(training_batches(found, recipe(augment=augment), order, generator(5), SCALE))
        assert all(torch.equal(one.images, two) for one, two in zip(mixed, expected, strict=True))
        assert all(torch.equal(one.labels, found.labels[i]) for one, i in zip(mixed, order, strict=True))


def test_a_margin_grows_and_images_stay_what_they_are():
    found, order = images(), [torch.arange(40)]
    plain = next(found.batches(order, CPU, None))
    for most in (1, 3, 2):
        centre = torch.full((40,), most)
        moved = found.raw(found.places(order, CPU)[0], most, (centre, centre))
        assert torch.equal(moved / 255, plain)
        corner = found.raw(found.places(order, CPU)[0], most, (0 * centre, 0 * centre))
        assert torch.equal(corner[:, :, most:, most:] / 255, plain[:, :, :-most, :-most])
        assert not corner[:, :, :most].any()
    assert torch.equal(next(found.batches(order, CPU, None)), plain)


class Calls(TorchDispatchMode):
    """Names of the operators that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **kwargs or {})


INPUT = [
    ({"augment": ("crop", "flip")}, MOST_CALLS),
    ({"augment": ("crop", "flip"), "random_erasing": 0.5, "mixup": 0.4}, MOST_CALLS),
    ({"augment": ("crop", "flip"), "random_erasing": 0.5, "cutmix": 1.0}, MOST_CALLS),
    ({"augment": ("shift", "crop", "flip")}, MOST_CALLS),
    ({"augment": ("shift", "crop", "flip"), "random_erasing": 0.5, "mixup": 0.4}, MOST_OF_ALL),
    ({"augment": ("shift", "crop", "flip"), "random_erasing": 0.5, "cutmix": 1.0}, MOST_OF_ALL),
    ({"augment": ("resized-crop", "flip")}, MOST_CALLS),
]


@pytest.mark.parametrize(("options", "most"), INPUT)
def test_input_work_is_a_few_calls_whatever_the_batch_size(options, most, monkeypatch):
    found, counts = [], []
    for size in (4, 32):
        split = images(count=64)
        batches = training_batches(split, recipe(**options), torch.arange(64).split(size), generator(0), SCALE,
                                   torch.channels_last)  # fmt: skip
        next(batches)  # the margin, and the draws of the epoch
        if "random_erasing" in options:  # drawn batch by batch, on the CPU: not the device's work
            drawn = [draw_batch(recipe(**options), (size, 3, 16, 16), generator(n)) for n in range(2)]
            monkeypatch.setattr("raybench.tasks.training.batches.draw_batch", lambda *a, drawn=drawn: drawn[0])
        with Calls() as calls:
            next(batches)
        monkeypatch.undo()
        counts.append(len(calls.names))
        found += calls.names
    assert counts[0] == counts[1] <= most, found


def test_randaugment_is_as_many_calls_for_any_batch_that_has_all_operations():
    counts = []
    for size in (300, 600):
        draws = operation_draws(size, generator(size))
        pixels = torch.rand(size, 3, 8, 8)
        with_operations(pixels, 9, draws)  # where moved pixels come from is kept
        with Calls() as calls:
            with_operations(pixels, 9, draws)
        counts.append(len(calls.names))
    assert counts[0] == counts[1] <= MOST_RANDAUGMENT, calls.names


WAITING = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__")


@pytest.mark.parametrize("options", [{"ema": 0.9, "mixup": 0.2}, {"optimizer": "adamw", "clip_grad": 1.0}],
                         ids=["sgd", "adamw"])  # fmt: skip
@pytest.mark.parametrize("penalty", [None, *sorted(registry.regularizer.entries())])
def test_a_training_step_waits_for_nothing(options, penalty, monkeypatch):
    settings = recipe(augment=("crop", "flip"), label_smoothing=0.1, **options)
    net = build_model("test-convnet", DataFacts("x", "classification", 3, 3, 16, (0.4,) * 3, (0.2,) * 3, ""))
    regularizer = registry.regularizer.load(penalty)() if penalty else None
    if regularizer is not None:
        regularizer.bind(net, trace(net, torch.zeros(1, 3, 16, 16), classes=3))
    average = Average(net, 0.9) if settings.ema else None
    progress = TrainingState(net.train(), make_optimizer(net, settings, CPU), average, regularizer)
    step = Stepper(settings, Computing(), CPU, None, 4)
    batches = training_batches(images(), settings, torch.arange(40).split(8), generator(0), SCALE)
    step(progress, next(batches))
    asked: list[str] = []
    for name in WAITING:
        own = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, *a, own=own, name=name: asked.append(name) or own(self, *a))
    with Calls() as calls:
        step(progress, next(batches))
    monkeypatch.undo()
    assert asked == []
    assert not [name for name in calls.names if "local_scalar_dense" in name or "nonzero" in name]


def test_draws_reach_another_device_together_and_unchanged():
    options = recipe(augment=("shift", "crop", "flip"), mixup=0.5, cutmix=1.0, random_erasing=0.5)
    draw = generator(3)
    drawn = [draw_batch(options, (count, 3, 16, 16), draw) for count in (5, 4, 4, 5)]
    assert any("kept" in one.tensors for one in drawn) != all("kept" in one.tensors for one in drawn)
    moved = moved_to(torch.device("meta"), drawn)
    for one, two in zip(drawn, moved, strict=True):
        assert {name: value.shape for name, value in one.tensors.items()} == {
            name: value.shape for name, value in two.tensors.items()
        }
        assert (one.share, one.operations) == (two.share, two.operations)
    assert moved_to(CPU, drawn)[0].tensors["order"] is drawn[0].tensors["order"]
    assert draw_batch(recipe(), (5, 3, 16, 16), draw) == Draws()


def test_the_average_is_that_of_torch_bit_for_bit():
    def fold(averages, values, steps):
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - 0.9)
            else:
                average.copy_(value)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    net[2].weight = nn.Parameter(net[2].weight.detach().clone())
    theirs, ours = AveragedModel(net, multi_avg_fn=fold, use_buffers=True), Average(net, 0.9)
    theirs.n_averaged.fill_(1)
    for number in range(3):
        net(torch.randn(2, 3, 8, 8, generator=generator(number)))
        for parameter in net.parameters():
            parameter.data.mul_(1.1)
        theirs.update_parameters(net)
        ours.update()
    expected = theirs.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.weights.items())
    assert list(ours.weights) == list(expected)


def test_shared_weights_have_one_average():
    net = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    net[1].weight = net[0].weight
    average = Average(net, 0.5)
    net[0].weight.data.add_(1)
    average.update()
    first, second = average.weights["0.weight"], average.weights["1.weight"]
    assert first is second
    assert torch.allclose(first, net[0].weight - 0.5)


def test_a_graph_holds_only_regularizers_that_say_so(monkeypatch):
    """The choice, without a GPU: raybench's own may be captured, an author's must say so."""
    net = nn.Linear(2, 2)
    loads = {name: registry.regularizer.load(name)() for name in registry.regularizer.entries()}
    assert all(one.capturable for one in loads.values())
    own = next(iter(loads.values()))
    monkeypatch.setattr(type(own), "capturable", False)
    progress = TrainingState(net, make_optimizer(net, recipe(), CPU), None, own)
    monkeypatch.setattr(type(own), "add_gradients", lambda self: None)
    step = Stepper(recipe(), Computing(graphs="auto"), CPU, None, 1)
    labels = torch.zeros(2, dtype=torch.int64)
    step(progress, Mixed(torch.ones(2, 2), labels, labels))
    assert (step.close().graphs, step.computing.speed_note.endswith("is not capturable")) == ("off", True)


@pytest.mark.parametrize(
    "options",
    [{}, {"augment": ("flip", "crop")}, {"randaugment": 9}, {"random_erasing": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}],
)
def test_batches_have_the_memory_format_that_the_row_tells(options):
    order = [torch.arange(8), torch.arange(8, 16)]
    made = (recipe(**options), order, generator("format"), SCALE, torch.channels_last)
    for mixed in training_batches(images(), *made):
        assert mixed.images.is_contiguous(memory_format=torch.channels_last)
