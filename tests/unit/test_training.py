"""Training: the same numbers after a kill, in any process history; schedules and mixes worked by hand."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as TF

from raybench.datasets.data import Data, Pixels, TensorImages, crop_resized, random_boxes
from raybench.datasets.open import open_dataset
from raybench.errors import StageError, UserError
from raybench.methods.protocols import Regularizer
from raybench.models.build import build_model
from raybench.spec.trial import TrainRecipe
from raybench.tasks.classification import Classification
from raybench.tasks.protocol import DataFacts
from raybench.tasks.training.augment import augmented, erased, flipped, shifted
from raybench.tasks.training.ema import Average
from raybench.tasks.training.loss import TEMPERATURE, training_loss
from raybench.tasks.training.mix import Mixed, mix
from raybench.tasks.training.optimize import learning_rate, make_optimizer
from raybench.tasks.training.randaugment import _sharpen, randaugment
from raybench.tasks.training.seeding import generator

CPU = torch.device("cpu")


class Killed(Exception):
    pass


class Kept:
    """A checkpoint in memory, through torch's own file format; dies after `dies_after` saves."""

    def __init__(self, dies_after=None):
        self.data, self.left = None, dies_after

    def load(self):
        return None if self.data is None else torch.load(io.BytesIO(self.data), weights_only=True)

    def save(self, state):
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.data = buffer.getvalue()
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed


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
@pytest.mark.parametrize(("select", "kill"), [("val", 1), ("last", 3)])
def test_a_killed_run_ends_with_the_numbers_of_an_unkilled_one(small, recipe, select, kill):
    teacher = fresh(small, seed=5).eval() if recipe.distill else None

    def run(checkpoint):
        model, penalty = fresh(small), Shrink()
        penalty.bind(model, None)
        torch.rand(17)  # history must not matter
        told = small.train(
            model, recipe, seed=3, checkpoint=checkpoint, regularizer=penalty, teacher=teacher, select=select
        )
        return model, told

    whole, told = run(Kept())
    checkpoint = Kept(dies_after=kill)
    with pytest.raises(Killed):
        run(checkpoint)
    checkpoint.left = None
    torch.manual_seed(99)
    resumed, again = run(checkpoint)
    assert again.resumed_from == kill
    assert again.curve == told.curve
    assert again.selected_epoch == told.selected_epoch
    assert same(whole, resumed)
    assert [set(epoch) for epoch in told.curve] == [{"epoch", "lr", "train_loss", "loss", "top1"}] * 4


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
    told = small.train(model, recipe, seed=0, checkpoint=Kept())
    best = max(told.curve, key=lambda epoch: (epoch["top1"], -epoch["loss"]))
    assert told.selected_epoch == best["epoch"]
    assert {name: small.evaluate(model, "val")[name] for name in ("top1", "loss")} == {
        name: best[name] for name in ("top1", "loss")
    }
    on_test = fresh(small)
    told = small.train(on_test, recipe, seed=0, checkpoint=Kept(), select="test")
    assert small.evaluate(on_test, "test")["top1"] == max(epoch["top1"] for epoch in told.curve)


def test_evaluation_counts_images(small):
    class Always(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(x), 1)

    told = small.evaluate(Always().train(), "test")
    assert told["top1"] == pytest.approx(100 / 3)
    assert told["top5"] == 100  # three classes
    assert told["loss"] == pytest.approx(np.log(np.e + 2) - 1 / 3)


def test_calibration_is_fixed_by_its_seed_and_refuses_too_many(task):
    one, two, other = task.calibration(64, 32, 0), task.calibration(64, 16, 0), task.calibration(64, 32, 1)
    assert one.images.shape == (64, 1, 8, 8)
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)
    with pytest.raises(UserError, match=r"5000 calibration images.*1295"):
        task.calibration(5000, 32, 0)


def test_wrong_outputs_are_told_before_training(small):
    with pytest.raises(UserError, match=r"3 classes.*found \(1, 7\)"):
        small.train(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), PLAIN, seed=0, checkpoint=Kept())
    with pytest.raises(UserError, match="Did you mean 'flip'"):
        small.train(fresh(small), TrainRecipe(epochs=1, lr=0.1, augment=("flipp",)), seed=0, checkpoint=Kept())


def test_a_diverging_loss_is_an_error(small):
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(192, 3)

        def forward(self, x):
            return self.linear(x.flatten(1)) * (float("nan") if self.training else 1.0)

    with pytest.raises(StageError, match="epoch 1 of 4"):
        small.train(Exploding(), PLAIN, seed=0, checkpoint=Kept())


def test_learning_rates_by_hand():
    cosine = TrainRecipe(epochs=10, lr=1.0, warmup_epochs=2, min_lr=0.2)
    assert [learning_rate(cosine, e) for e in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1.0, 0.6, 0.2])
    steps = TrainRecipe(epochs=10, lr=1.0, schedule="multistep", milestones=(6, 8))
    assert [learning_rate(steps, e) for e in (0, 5.9, 6, 8)] == pytest.approx([1, 1, 0.1, 0.01])
    stairs = TrainRecipe(epochs=90, lr=1.0, schedule="step", step_size=30)
    assert [learning_rate(stairs, e) for e in (29.9, 30, 60)] == pytest.approx([1, 0.1, 0.01])


def test_adamw_spares_vectors_and_tokens():
    facts = DataFacts("x", "classification", 3, 3, 8, (0.5,) * 3, (0.5,) * 3, "")
    model = build_model("test-vit", facts)
    groups = make_optimizer(model, TrainRecipe(epochs=1, optimizer="adamw", lr=0.1, weight_decay=0.3), CPU).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    names = {id(p): name for name, p in model.named_parameters()}
    spared = {names[id(p)] for p in groups[1]["params"]}
    assert {"pos_embed", "cls_token", "head.bias", "norm.weight"} <= spared
    assert not any(name.endswith("qkv.weight") for name in spared)


def test_moves_of_images():
    images = torch.arange(32.0).reshape(2, 1, 4, 4)
    moved = shifted(images, 1, generator(0))
    padded = torch.nn.functional.pad(images, (1,) * 4)
    for before, after in zip(padded, moved, strict=True):
        windows = [before[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
        assert any(torch.equal(after, window) for window in windows)
    mirrored = flipped(images.repeat(8, 1, 1, 1), generator(0))
    turned = sum(torch.equal(a, b.flip(-1)) for a, b in zip(mirrored, images.repeat(8, 1, 1, 1), strict=True))
    assert 0 < turned < 16
    none = TrainRecipe(epochs=1, lr=1)
    assert augmented(images, none, generator(0)) is images


def test_crops_stay_inside_and_the_whole_image_is_itself():
    draws = torch.rand(500, 4, generator=generator(1))
    top, left, tall, wide = random_boxes(draws, torch.full((500,), 30.0), torch.full((500,), 50.0)).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 30 + 1e-3).all()
    assert (left + wide <= 50 + 1e-3).all()
    images = torch.rand(2, 3, 8, 8, generator=generator(2))
    whole = torch.tensor([[1.0, 0.5, 0.3, 0.3]]).repeat(2, 1)
    assert torch.allclose(crop_resized(images, whole), images, atol=1e-5)


def test_mixes_keep_the_mean_of_labels_and_pixels():
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
    labels = torch.arange(4)
    for recipe in (TrainRecipe(epochs=1, lr=1, mixup=1.0), TrainRecipe(epochs=1, lr=1, cutmix=1.0)):
        for seed in range(5):
            mixed = mix(images.clone(), labels, recipe, generator(seed))
            expected = mixed.share * mixed.labels + (1 - mixed.share) * mixed.others
            assert torch.allclose(mixed.images.mean((1, 2, 3)), expected.float(), atol=1e-5)


def test_the_loss_by_hand():
    recipe = TrainRecipe(epochs=1, lr=1)
    logits = torch.tensor([[2.0, 0.0]])
    zero, one = torch.tensor([0]), torch.tensor([1])
    own, other = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))
    mixed = Mixed(torch.zeros(1, 2), zero, one, 0.75)
    assert float(training_loss(logits, mixed, recipe, None)) == pytest.approx(0.75 * own + 0.25 * other)
    soft = TrainRecipe(epochs=1, lr=1, distill=1.0)
    teacher = nn.Linear(2, 2)
    nn.init.zeros_(teacher.weight)
    nn.init.zeros_(teacher.bias)
    p = 1 / (1 + np.exp(-2 / TEMPERATURE))
    kl = TEMPERATURE**2 * (0.5 * np.log(0.5 / p) + 0.5 * np.log(0.5 / (1 - p)))
    assert float(training_loss(logits, Mixed(torch.zeros(1, 2), zero, zero), soft, teacher)) == pytest.approx(kl, 1e-4)


def test_erasing_and_randaugment_leave_shapes_and_ranges():
    images = torch.rand(16, 3, 16, 16, generator=generator(0))
    gone = erased(images, TrainRecipe(epochs=1, lr=1, random_erasing=0.5), generator(1))
    touched = (gone != images).flatten(1).any(1)
    assert 0 < touched.sum() < 16
    assert 0.01 < (gone != images)[touched].float().mean() < 0.35
    one, again = randaugment(images, 9, generator(2)), randaugment(images, 9, generator(2))
    assert torch.equal(one, again)
    assert one.min() >= 0
    assert one.max() <= 1
    assert (one != images).flatten(1).any(1).sum() > 8


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
def test_sharpness_is_torchvisions(factor):
    images = torch.rand(2, 3, 9, 12, generator=generator(0))
    expected = TF.adjust_sharpness(images, factor)
    assert torch.allclose(_sharpen(images, factor).clamp(0, 1), expected, atol=1e-6)


def test_the_average_of_weights():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = Average(net, 0.75)
    nn.init.ones_(net.weight)
    average.update(net)
    with average.swapped_into(net):
        assert net.weight.item() == pytest.approx(0.25)
    assert net.weight.item() == 1
