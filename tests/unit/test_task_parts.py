"""Parts of training that whole trials hide: loaders' processes, what is saved, and shares of a mixture."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from raybench.datasets.boxes import BoxData, BoxImages
from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.errors import StageError
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks import detection_images, detection_training
from raybench.tasks.classification import Classification
from raybench.tasks.detection_images import PlainImages, TrainingImages
from raybench.tasks.detection_loss import QueryLoss
from raybench.tasks.detection_training import NO_AUGMENT
from raybench.tasks.training import compiling
from raybench.tasks.training.batches import training_batches
from raybench.tasks.training.compiling import TIMED, Compiling
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.ema import Average
from raybench.tasks.training.optimize import make_optimizer
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.scale import Scale
from raybench.tasks.training.seeding import generator
from tests.kept import Kept

CPU = torch.device("cpu")


def boxes() -> BoxImages:
    draw = np.random.default_rng(0)
    pixels = tuple(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3))
    sides, files = np.full((3, 2), 32), tuple(f"{n}.png" for n in range(3))
    found = np.tile([2.0, 2, 20, 20], (3, 1))
    return BoxImages(files, sides, np.arange(4), found, np.zeros(3, int), np.zeros(3, bool), pixels=pixels)


def test_loaders_start_as_many_processes_as_they_are_told(monkeypatch) -> None:
    workers: list[int] = []

    class Loader(torch.utils.data.DataLoader):
        def __init__(self, *args: object, num_workers: int = -1, **kwargs: object) -> None:
            workers.append(num_workers)
            super().__init__(*args, num_workers=0, **kwargs)

    monkeypatch.setattr(detection_images, "DataLoader", Loader)
    assert sorted(n for numbers, _ in PlainImages(boxes(), 32).batches(2, 3) for n in numbers) == [0, 1, 2]
    training = TrainingImages(boxes(), ("a",), 32, NO_AUGMENT)
    assert len(list(training.batches([np.array([0, 1]), np.array([2])], (0, 0), 5))) == 2
    assert workers == [3, 5]


class InFiles:
    """Images that are read batch by batch, from memory."""

    def __init__(self, inner: TensorImages) -> None:
        self._inner = inner

    @property
    def labels(self) -> torch.Tensor:
        return self._inner.labels

    def __len__(self) -> int:
        return len(self._inner)

    def batches(self, order, device, crops=None):
        return self._inner.batches(order, device, crops)


ALL = {"augment": ("shift", "crop", "flip"), "randaugment": 5, "random_erasing": 0.5, "mixup": 0.3}
RECIPES = {
    "nothing": {},
    "one move": {"augment": ("crop",)},
    "two moves": {"augment": ("crop", "shift")},
    "resized": {"augment": ("resized-crop", "crop", "flip")},
    "cutmix": {"cutmix": 1.0},
    "all": ALL,
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batches_from_memory_are_those_from_files(name: str, memory_format: torch.memory_format) -> None:
    """Where images lie changes when numbers are drawn and where they are used, and no pixel."""
    pixels = torch.randint(0, 256, (24, 3, 16, 16), generator=generator(0), dtype=torch.uint8)
    held = TensorImages(Pixels(pixels), torch.arange(24), torch.arange(24))
    recipe = TrainRecipe(epochs=1, lr=0.1, **RECIPES[name])
    scale = Scale.of((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), CPU)
    order = torch.randperm(24, generator=generator(1)).split(8)
    found = [
        list(training_batches(images, recipe, order, generator(2), scale, memory_format))
        for images in (held, InFiles(held))
    ]
    assert [len(batches) for batches in found] == [3, 3]
    for one, other, indices in zip(*found, order, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.others, other.others)
        assert torch.equal(one.labels, indices)
        assert one.share == other.share
        assert name == "all" or one.images.is_contiguous(memory_format=memory_format)
        if name == "nothing":
            assert torch.equal(one.images, scale(pixels[indices].float() / 255))
            assert one.share == 1
    if name == "all":
        assert any(batch.share < 1 for batch in found[0])


def state_of(net: nn.Module, recipe: TrainRecipe) -> TrainingState:
    return TrainingState(net, make_optimizer(net, recipe, CPU), Average(net, 0.9), None)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_saved_is_all_that_training_changed(optimizer: str) -> None:
    recipe = TrainRecipe(epochs=1, lr=0.1, optimizer=optimizer)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = state_of(net, recipe)
    for number in range(3):
        before.optimizer.zero_grad()
        net(torch.rand(5, 3, generator=generator(number))).square().sum().backward()
        before.optimizer.step()
        before.average.update()
        before.epoch = number + 1
        before.offer(50.0 + number, 0.5, net.state_dict())
        before.curve.append({"epoch": number + 1, "loss": 0.5})
    saved = copy.deepcopy(before.state())
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    after = state_of(other, recipe)
    after.load(saved)
    again = after.state()
    assert again.keys() == saved.keys()
    for key in ("epoch", "curve", "best_epoch", "best_metric", "best_loss"):
        assert again[key] == saved[key] == before.state()[key]
    assert (after.epoch, after.best_epoch, after.best_metric, after.best_loss) == (3, 3, 52.0, 0.5)
    for key in ("model", "average", "best"):
        assert again[key].keys() == saved[key].keys() == net.state_dict().keys()
        assert all(torch.equal(again[key][name], value) for name, value in saved[key].items())
    for number, values in saved["optimizer"]["state"].items():
        assert all(torch.equal(torch.as_tensor(again["optimizer"]["state"][number][name]), torch.as_tensor(value))
                   for name, value in values.items())  # fmt: skip
    saved["curve"][0]["epoch"] = 99
    assert after.curve[0]["epoch"] == 1


def small(**speed: str) -> tuple[Classification, nn.Module]:
    """A task of 36 training images, and a network for it."""
    facts = DataFacts("x", "classification", 3, 1, 8, (0.5,), (0.25,), "")
    pixels = Pixels(torch.randint(0, 256, (60, 1, 8, 8), generator=generator(5), dtype=torch.uint8))
    spans = ((0, 36), (36, 48), (48, 60), (0, 48))
    splits = [TensorImages(pixels, torch.arange(60) % 3, torch.arange(*span)) for span in spans]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return Classification(Data(facts, *splits, ""), CPU, Speed(**speed).filled("cpu", "raybench")), net


def test_a_validation_loss_that_is_no_number_ends_the_stage_by_name() -> None:
    """Batch statistics still train where the kept ones are spoilt."""

    def spoil(layer: nn.Module, inputs: object) -> None:
        layer.running_var.fill_(math.nan)

    task, net = small()
    net[2].register_forward_pre_hook(spoil)
    with pytest.raises(StageError, match=r"the validation loss is nan in epoch 1 of 2; lr 0\.1 may be too high"):
        task.train(net, TrainRecipe(epochs=2, batch_size=12, lr=0.1), seed=0, checkpoint=Kept())


@pytest.mark.parametrize("select", ["val", "test", "last"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_network_ends_as_the_epoch_that_the_curve_names(select, ema) -> None:
    """Evaluated again, the kept weights give the figure of the selected epoch."""
    task, net = small()
    recipe = TrainRecipe(epochs=4, batch_size=12, lr=0.3, ema=ema, augment=("crop",))
    trained = task.train(net, recipe, seed=0, checkpoint=Kept(), select=select)
    assert [epoch["epoch"] for epoch in trained.curve] == [1, 2, 3, 4]
    chosen = trained.curve[trained.selected_epoch - 1]
    found = task.evaluate(net, "test" if select == "test" else "val")
    assert (found["top1"], found["loss"]) == (chosen["top1"], chosen["loss"])
    best = max(trained.curve, key=lambda epoch: (epoch["top1"], -epoch["loss"]))
    assert trained.selected_epoch == (4 if select == "last" else best["epoch"])
    assert trained.seconds_per_epoch > 0


@pytest.mark.parametrize("select", ["val", "last"])
def test_no_epoch_changes_nothing_and_is_none(select) -> None:
    task, net = small()
    before = copy.deepcopy(net.state_dict())
    trained = task.train(net, TrainRecipe(epochs=0, lr=0.1, ema=0.5), seed=0, checkpoint=Kept(), select=select)
    assert (trained.curve, trained.selected_epoch, trained.resumed_from) == ((), 0, 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_stage_that_is_not_compiled_says_how_many_steps_it_has_left() -> None:
    task, net = small(compile="auto")
    trained = task.train(net, TrainRecipe(epochs=2, batch_size=16, lr=0.1), seed=0, checkpoint=Kept())
    assert trained.computing["speed_note"] == "not compiled: 6 steps left"  # 36 images: 3 batches an epoch


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        (TIMED + 2 + 19, "not compiled: 19 s left, compiling takes up to 4 s"),
        (TIMED + 2 + 20, "first step compiled in 0.0 s, 0 recompilations"),
    ],
)
def test_compiling_pays_from_five_times_its_time_on(steps, note, monkeypatch) -> None:
    """By a clock that shows one second more for each step; two layers take four seconds."""
    net, under, now = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), Compiling(steps), iter(range(50, 99))
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(torch, "compile", lambda model: model)
    seconds = 50.0
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: seconds)
    for _ in range(steps):
        under.run(net, lambda forward: forward)
        seconds = float(next(now))
    assert under.close(Computing(compile="auto")).speed_note == note


def test_images_for_a_network_that_stretches_are_squares_with_the_same_truth() -> None:
    wide = replace(boxes(), sizes=np.array([[16, 32]] * 3), pixels=tuple(p[:16] for p in boxes().pixels))
    resized = cv2.resize(wide.pixels[1], (32, 32), interpolation=cv2.INTER_LINEAR)
    training = TrainingImages(wide, ("a",), 32, NO_AUGMENT, stretched=True)
    pixels, before, after = training.load_image(1)
    assert (before, after) == ((16, 32), (32, 32))
    np.testing.assert_array_equal(pixels, resized[:, :, ::-1])
    plain = PlainImages(wide, 32, stretched=True)
    np.testing.assert_array_equal(plain[1][1], resized.transpose(2, 0, 1))
    classes, shares = plain.padded(1, (32, 32))
    assert (classes.tolist(), shares[0].tolist()) == ([[0.0]], pytest.approx([11 / 32, 11 / 16, 18 / 32, 18 / 16]))
    found = torch.tensor([[8.0, 8, 24, 40, 0.5, 1]])
    assert plain.in_original(found, (32, 32), 1).tolist() == [[8, 4, 24, 16, 0.5, 1]]  # cut off at the image's rim


def test_noisy_copies_add_terms_of_their_own_to_the_loss_of_queries() -> None:
    draw = generator("queries")
    scores, places = torch.randn(2, 1, 9, 3, generator=draw), torch.rand(2, 1, 9, 4, generator=draw)
    first = torch.rand(1, 5, 4, generator=draw), torch.randn(1, 5, 3, generator=draw)
    truth = {"batch_idx": torch.zeros(2), "cls": torch.tensor([[0.0], [2]]), "bboxes": torch.rand(2, 4, generator=draw)}
    noise = {"dn_num_split": [4, 5], "dn_num_group": 2, "dn_pos_idx": [torch.arange(4)]}
    noise["dn_gt_idx"] = [torch.arange(2)]
    _, plain = QueryLoss(3)((places[:, :, 4:], scores[:, :, 4:], *first, None), truth)
    total, noisy = QueryLoss(3)((places, scores, *first, noise), truth)
    assert {name for name in noisy if name.endswith("_dn")} >= {"loss_class_dn", "loss_bbox_dn", "loss_giou_dn"}
    assert all(float(noisy[name]) > 0 for name in noisy if name.endswith("_dn"))
    for name, value in plain.items():
        if not name.endswith("_dn"):
            torch.testing.assert_close(noisy[name], value)
    torch.testing.assert_close(total, sum(noisy.values()))


def test_products_are_rounded_only_where_the_stage_asks_for_it() -> None:
    found = []
    for precision in ("fp32", "bf16", ""):
        with Computing(precision=precision).autocast(CPU):
            found.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    assert found == [torch.float32, torch.bfloat16, torch.float32]


def test_an_epoch_of_queries_is_the_mean_over_images_and_its_loss_is_told_the_epoch(monkeypatch) -> None:
    class Fixed(QueryLoss):
        def __init__(self) -> None:
            """Without ultralytics' loss."""

        def __call__(self, preds, batch):
            return 3 * preds, {}

    class Stub(nn.Module):
        stretched = False

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def training_outputs(self, images, truth):
            return self.weight

    calls: list[tuple] = []
    monkeypatch.setattr(detection_training, "at_epoch", lambda *args: calls.append(args))
    recipe, loss, net, images = TrainRecipe(epochs=5, batch_size=2, lr=1e-9), Fixed(), Stub(), boxes()
    data = BoxData(
        DataFacts("x", "detection", 1, 3, 32, (0.0,) * 3, (1.0,) * 3, ""), ("a",), images, images, images, ""
    )
    progress = TrainingState(net, detection_training.make_optimizer(net, recipe, CPU), None, None)
    found = detection_training.run_epoch(progress, detection_training.EpochInputs(data, recipe, 0, CPU, loss), 2)
    assert found == pytest.approx(3)  # batches of two and of one image
    assert calls == [(loss, 2, 5)]
