"""Training: the same numbers after a kill, in any process history; schedules and mixes worked by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.datasets.open import open_dataset
from raybench.errors import StageError, UserError
from raybench.methods.protocols import Regularizer
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import Classification
from raybench.tasks.training.seeding import generator
from tests.kept import Kept, Killed

CPU = torch.device("cpu")


class Shrink(Regularizer):
    """Pulls harder every epoch: it has a state that must survive."""

    def __init__(self):
        self.strength = torch.tensor(1e-3)

    def bind(self, model, groups):
        self.parameters = list(model.parameters())

    def add_gradients(self):
        for parameter in self.parameters:
            parameter.grad.add_(parameter.detach(), alpha=float(self.strength))

    def end_epoch(self):
        self.strength = self.strength * 2

    def state_dict(self):
        return {"strength": self.strength}

    def load_state_dict(self, state):
        self.strength = state["strength"]


@pytest.fixture(scope="module")
def task():
    return Classification(open_dataset("digits", {}, None), CPU)


@pytest.fixture(scope="module")
def small():
    """A task of 60 random images of 3 classes, 8x8, 3 channels."""
    draw = generator("small")
    pixels = Pixels(torch.rand(60, 3, 8, 8, generator=draw))
    labels = torch.arange(60) % 3
    splits = [TensorImages(pixels, labels, torch.arange(*span)) for span in ((0, 36), (36, 48), (48, 60), (0, 48))]
    facts = DataFacts("small", "classification", 3, 3, 8, (0.5,) * 3, (0.25,) * 3, "")
    return Classification(Data(facts, *splits, split_note=""), CPU)


def fresh(task, name="test-convnet", seed=0):
    torch.manual_seed(seed)
    return build_model(name, task.data)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


EVERYTHING = TrainRecipe(
    epochs=4, batch_size=16, optimizer="adamw", lr=0.01, warmup_epochs=1, label_smoothing=0.1, mixup=0.2, cutmix=1.0,
    randaugment=5, random_erasing=0.5, augment=("crop", "flip", "resized-crop"), ema=0.9, clip_grad=1.0, distill=0.3,
)  # fmt: skip
PLAIN = TrainRecipe(epochs=4, batch_size=16, lr=0.05, schedule="multistep", milestones=(2,), augment=("shift",))


@pytest.mark.parametrize("recipe", [EVERYTHING, PLAIN], ids=["everything", "plain"])
@pytest.mark.parametrize(("select", "kill"), [("val", 1), ("last", 2), ("val", 3), ("last", 3)])
def test_a_killed_run_ends_with_the_numbers_of_an_unkilled_one(small, recipe, select, kill):
    teacher = fresh(small, seed=5).eval() if recipe.distill else None

    def run(checkpoint):
        model, penalty = fresh(small), Shrink()
        penalty.bind(model, None)
        torch.rand(17)  # history must not matter
        trained = small.train(
            model, recipe, seed=3, checkpoint=checkpoint, regularizer=penalty, teacher=teacher, select=select
        )
        return model, trained

    whole, trained = run(Kept())
    checkpoint = Kept(dies_after=kill)
    with pytest.raises(Killed):
        run(checkpoint)
    checkpoint.left = None
    torch.manual_seed(99)
    resumed, again = run(checkpoint)
    assert again.resumed_from == kill
    assert again.curve == trained.curve
    assert again.selected_epoch == trained.selected_epoch
    assert same(whole, resumed)
    assert [set(epoch) for epoch in trained.curve] == [{"epoch", "lr", "train_loss", "loss", "top1"}] * 4


OPTIONS = [
    {"label_smoothing": 0.1}, {"mixup": 0.5}, {"cutmix": 1.0}, {"randaugment": 9}, {"random_erasing": 0.9},
    {"ema": 0.5},
    {"clip_grad": 0.01}, {"distill": 0.5}, {"optimizer": "adamw"}, {"nesterov": True}, {"momentum": 0.5},
    {"weight_decay": 0.1}, {"schedule": "multistep", "milestones": (1,)}, {"schedule": "step", "step_size": 1},
    {"schedule": "cosine"}, {"schedule": "cosine", "min_lr": 0.04}, {"warmup_epochs": 1}, {"amp": True},
    {"augment": ("shift",)}, {"augment": ("flip",)}, {"augment": ("crop",)}, {"augment": ("resized-crop",)},
]  # fmt: skip


@pytest.fixture(scope="module")
def without(small):
    """The network after two epochs with no option switched on."""
    model = fresh(small)
    small.train(model, BARE, seed=0, checkpoint=Kept(), select="last")
    return model


BARE = TrainRecipe(epochs=2, batch_size=16, lr=0.05, schedule="constant")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: "-".join(map(str, option.values())))
def test_no_option_is_ignored(small, without, option):
    """Each one alone leads to other weights than none, twice the same ones, and all of them finite."""
    recipe, teacher = BARE.model_copy(update=option), fresh(small, seed=5).eval()
    first, second = fresh(small), fresh(small)
    for model in (first, second):
        small.train(model, recipe, seed=0, checkpoint=Kept(), teacher=teacher, select="last")
    assert same(first, second)
    assert not same(first, without)
    assert all(torch.isfinite(value.float()).all() for value in first.state_dict().values())


def test_training_ignores_and_restores_the_global_generators(small):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))

        def forward(self, x):
            return self.net(x)

    torch.manual_seed(0)
    first = Dropping()
    second = copy.deepcopy(first)
    recipe = TrainRecipe(epochs=2, batch_size=16, lr=0.05)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    small.train(first, recipe, seed=0, checkpoint=Kept())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(4)
    small.train(second, recipe, seed=0, checkpoint=Kept())
    assert same(first, second)
    third = copy.deepcopy(first)
    small.train(third, recipe, seed=1, checkpoint=Kept())
    assert not same(first, third)


def test_the_best_epoch_on_the_selecting_split_is_kept(small):
    recipe = TrainRecipe(epochs=6, batch_size=16, lr=0.3, schedule="constant")
    model = fresh(small)
    trained = small.train(model, recipe, seed=0, checkpoint=Kept())
    best = max(trained.curve, key=lambda epoch: (epoch["top1"], -epoch["loss"]))
    assert trained.selected_epoch == best["epoch"]
    assert {name: small.evaluate(model, "val")[name] for name in ("top1", "loss")} == {
        name: best[name] for name in ("top1", "loss")
    }
    on_test = fresh(small)
    trained = small.train(on_test, recipe, seed=0, checkpoint=Kept(), select="test")
    assert small.evaluate(on_test, "test")["top1"] == max(epoch["top1"] for epoch in trained.curve)


@pytest.mark.parametrize(
    ("select", "size", "expected"),
    [("val", 16, [12, 12, 12]), ("last", 16, [12, 12, 12]), ("test", 16, [16, 16]), ("test", 64, [36])],
)
def test_only_the_published_rules_leave_out_images_that_fill_no_batch(small, select, size, expected):
    """36 training images, as `DataLoader(drop_last=True)` would batch them; one batch is always left."""
    sizes = []

    class Undecided(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            if self.training:
                sizes.append(len(x))
            return x.new_zeros(len(x), 3) + 0 * self.weight

    recipe = TrainRecipe(epochs=2, batch_size=size, lr=0.01, weight_decay=0, schedule="constant")
    trained = small.train(Undecided(), recipe, seed=0, checkpoint=Kept(), select=select)
    assert sizes == 2 * expected
    assert [epoch["train_loss"] for epoch in trained.curve] == pytest.approx(
        2 * [math.log(3)]
    )  # of what was trained on


def test_evaluation_counts_images(small):
    class Always(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(x), 1)

    figures = small.evaluate(Always().train(), "test")
    assert figures["top1"] == pytest.approx(100 / 3)
    assert figures["top5"] == 100  # three classes
    assert figures["loss"] == pytest.approx(np.log(np.e + 2) - 1 / 3)


def test_calibration_is_fixed_by_its_seed_and_refuses_too_many(task):
    one, two, other = task.calibration(64, 32, 0), task.calibration(64, 16, 0), task.calibration(64, 32, 1)
    assert one.images.shape == (64, 1, 8, 8)
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)
    with pytest.raises(UserError, match=r"5000 calibration images.*1295"):
        task.calibration(5000, 32, 0)


def test_wrong_outputs_are_told_before_training(small):
    with pytest.raises(UserError, match=r"found a tensor \(1, 7\).*has 3 classes"):
        small.train(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), PLAIN, seed=0, checkpoint=Kept())
    with pytest.raises(UserError, match="mosaic"):  # detection's alone; unknown names are refused by the recipe
        small.train(fresh(small), TrainRecipe(epochs=1, lr=0.1, augment=("mosaic",)), seed=0, checkpoint=Kept())


def test_a_diverging_loss_is_an_error(small):
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(192, 3)

        def forward(self, x):
            return self.linear(x.flatten(1)) * (float("nan") if self.training else 1.0)

    with pytest.raises(StageError, match="epoch 1 of 4"):
        small.train(Exploding(), PLAIN, seed=0, checkpoint=Kept())
