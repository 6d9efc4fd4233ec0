"""Single steps of training: rates, optimizers, batches, seeds and the choice between epochs, worked by hand."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math

import pytest
import torch
from torch import nn

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.progress.epochs import EPOCHS
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import Classification
from raybench.tasks.training.ema import Average
from raybench.tasks.training.loss import training_loss
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.optimize import learning_rate, make_optimizer
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import deterministic, generator, seed_of, seeded

CPU = torch.device("cpu")


def recipe(**options) -> TrainRecipe:
    return TrainRecipe(**{"epochs": 1, "lr": 1, **options})


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "constant", "warmup_epochs": 4}, {0: 0, 1: 0.25, 3: 0.75, 4: 1, 9: 1}),
        ({"schedule": "multistep", "milestones": (8, 2), "gamma": 0.5}, {1.99: 1, 2: 0.5, 7.9: 0.5, 8: 0.25}),
        ({"schedule": "step", "step_size": 3, "gamma": 0.5}, {2.9: 1, 3: 0.5, 5.9: 0.5, 6: 0.25}),
        ({"schedule": "cosine"}, {0: 1, 2.5: (1 + math.sqrt(0.5)) / 2, 5: 0.5, 10: 0, 11: 0}),
        ({"schedule": "cosine", "warmup_epochs": 2, "min_lr": 0.5}, {1: 0.5, 2: 1, 6: 0.75, 10: 0.5, 99: 0.5}),
        ({"schedule": "cosine", "warmup_epochs": 10}, {5: 0.5, 10: 1}),
    ],
)  # fmt: skip
def test_the_rate_at_every_corner(options, rates) -> None:
    found = {epoch: learning_rate(recipe(epochs=10, **options), epoch) for epoch in rates}
    assert found == pytest.approx(rates, abs=1e-12)
    tenfold = {epoch: learning_rate(recipe(epochs=10, **options | {"lr": 10}), epoch) for epoch in (0.5, 1.5)}
    if "min_lr" not in options:
        assert tenfold == pytest.approx({e: 10 * learning_rate(recipe(epochs=10, **options), e) for e in tenfold})


class Exempt(nn.Module):
    """A filter, a vector, a scalar, and a matrix that asks for no decay, as timm's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.matrix = nn.Parameter(torch.ones(2, 2, 1, 1)), nn.Parameter(torch.ones(1, 3))
        self.vector, self.scalar = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(()))

    def no_weight_decay(self) -> set[str]:
        return {"matrix"}


def test_the_optimizers_are_the_recipes() -> None:
    model = Exempt()
    sgd = make_optimizer(model, recipe(lr=0.3, momentum=0.7, nesterov=True, weight_decay=0.01), CPU)
    (group,) = sgd.param_groups
    assert isinstance(sgd, torch.optim.SGD)
    assert [group[k] for k in ("lr", "momentum", "nesterov", "weight_decay", "fused")] == [0.3, 0.7, True, 0.01, True]
    assert len(group["params"]) == 4
    adamw = make_optimizer(model, recipe(optimizer="adamw", lr=0.2, weight_decay=0.05), CPU)
    assert isinstance(adamw, torch.optim.AdamW)
    assert [[g[k] for k in ("lr", "weight_decay", "fused")] for g in adamw.param_groups] == [
        [0.2, 0.05, True], [0.2, 0.0, True],
    ]  # fmt: skip
    names = {id(p): name for name, p in model.named_parameters()}
    assert [{names[id(p)] for p in g["params"]} for g in adamw.param_groups] == [
        {"filter"}, {"matrix", "vector", "scalar"},
    ]  # fmt: skip
    plain = make_optimizer(nn.Linear(2, 2), recipe(optimizer="adamw"), torch.device("meta")).param_groups
    assert [(len(g["params"]), g["fused"]) for g in plain] == [(1, False), (1, False)]


def test_seeds_are_hashes_of_all_parts() -> None:
    expected = int.from_bytes(hashlib.sha256(b"3/0/shuffle").digest()[:8], "big") // 2
    assert seed_of(3, 0, "shuffle") == expected < 2**63
    assert torch.equal(torch.rand(3, generator=generator(3, 0, "shuffle")),
                       torch.rand(3, generator=torch.Generator().manual_seed(expected)))  # fmt: skip
    before = torch.get_rng_state()
    with seeded(CPU, 3, 0, "shuffle"):
        inside = torch.rand(3)
    assert torch.equal(inside, torch.rand(3, generator=generator(3, 0, "shuffle")))
    assert torch.equal(torch.get_rng_state(), before)


def switches() -> tuple:
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *flags, memory.fill_uninitialized_memory, cudnn.deterministic, cudnn.benchmark


def test_kernels_are_deterministic_on_gpus_and_switches_are_put_back() -> None:
    """The switches can be set without a GPU."""
    before = switches()
    with deterministic(CPU):
        assert switches() == before
    cudnn = torch.backends.cudnn
    cudnn.benchmark = True
    try:
        inside = []
        with pytest.raises(KeyError), deterministic(torch.device("cuda")):
            {}[inside.append(switches())]
        assert inside == [(True, True, False, True, False)]
        assert switches() == (False, False, before[2], before[3], True)
        torch.use_deterministic_algorithms(True)
        with deterministic(torch.device("cuda")):
            pass
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark = before[4]
    assert switches() == before


def test_the_best_epoch_has_the_higher_metric_then_the_lower_loss_then_comes_first() -> None:
    net = nn.Linear(1, 1)
    state = TrainingState(net, torch.optim.SGD(net.parameters(), 1), None, None)
    said = []
    for epoch, (metric, loss) in enumerate([(0.0, 9.0), (5.0, 2.0), (5.0, 3.0), (5.0, 2.0), (5.0, 1.0), (4.0, 0.0)], 1):
        state.epoch = epoch
        state.offer(metric, loss, {"w": torch.full((1,), float(epoch))})
        said.append((state.best_epoch, state.best_metric, state.best_loss, state.best["w"].item()))
    assert said == [(1, 0.0, 9.0, 1.0), *[(2, 5.0, 2.0, 2.0)] * 3, *[(5, 5.0, 1.0, 5.0)] * 2]
    kept = torch.ones(1)
    state.offer(6.0, 0.0, {"w": kept})
    kept.zero_()
    assert state.best["w"].item() == 1  # a copy


def test_the_average_counts_the_first_weights_and_its_decay_may_change() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = Average(net, 0.5)
    nn.init.ones_(net.weight)
    average.update()
    average.decay = 0.9
    average.update()
    assert average.weights["weight"].item() == pytest.approx(0.9 * 0.5 + 0.1)
    with pytest.raises(KeyError), average.swapped_into(net):
        raise KeyError
    assert net.weight.item() == 1
    average.load({"weight": torch.full((1, 1), 7.0)})
    assert average.weights["weight"].item() == 7


@torch.no_grad()
def test_losses_with_smoothing_and_a_teacher_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    labels, others = torch.tensor([0, 1]), torch.tensor([2, 2])
    teacher = nn.Linear(2, 3)
    images = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    logp = logits.log_softmax(1)

    def smooth(which):
        return -(0.7 * logp[range(2), which] + 0.1 * logp.sum(1)).mean()  # 0.3 / 3 for every class, 0.7 for its own

    mixed = Mixed(images, labels, others, 0.25)
    hard = 0.25 * smooth(labels) + 0.75 * smooth(others)
    options = {"label_smoothing": 0.3, "distill": 0.4}
    assert float(training_loss(logits, mixed, recipe(label_smoothing=0.3), teacher)) == pytest.approx(float(hard))
    target = (teacher(images) / 4).softmax(1)
    soft = 16 * (target * (target.log() - (logits / 4).log_softmax(1))).sum(1).mean()
    found = training_loss(logits, mixed, recipe(**options), teacher)
    assert float(found) == pytest.approx(float(0.6 * hard + 0.4 * soft))
    assert float(training_loss(logits, mixed, recipe(**options), None)) == pytest.approx(float(hard))
    whole = training_loss(logits, Mixed(images, labels, others, 1.0), recipe(label_smoothing=0.3), None)
    assert float(whole) == pytest.approx(float(smooth(labels)))


class Watching(nn.Module):
    """One weight whose gradient is known; keeps the images that it sees in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(3)), []

    def forward(self, images):
        if self.training:
            self.seen.append(images.detach().clone())
        return images.new_zeros(len(images), 3) + self.weight


class Checkpoint:
    def __init__(self, state=None) -> None:
        self.state, self.saved = state, []

    def load(self):
        return self.state

    def save(self, state) -> None:
        self.saved.append(state["epoch"])


@pytest.fixture
def task() -> Classification:
    """23 + 9 + 9 images of one pixel, whose value is their number."""
    pixels, labels = Pixels(torch.arange(41.0).reshape(41, 1, 1, 1) / 41), torch.zeros(41, dtype=torch.int64)
    splits = [TensorImages(pixels, labels, torch.arange(*span)) for span in ((0, 23), (23, 32), (32, 41), (0, 32))]
    return Classification(Data(DataFacts("x", "classification", 3, 1, 1, (0.5,), (0.25,), ""), *splits, ""), CPU)


def test_an_epoch_is_every_image_once_in_an_order_of_its_own(task) -> None:
    net, checkpoint = Watching(), Checkpoint()
    trained = task.train(net, recipe(epochs=3, batch_size=8), seed=4, checkpoint=checkpoint, select="last")
    numbers = [[round(float(x) * 0.25 * 41 + 0.5 * 41) for x in batch.flatten()] for batch in net.seen]  # normalised
    assert [len(batch) for batch in numbers] == [8, 8, 7] * 3
    epochs = [list(itertools.chain(*numbers[3 * e : 3 * e + 3])) for e in range(3)]
    assert epochs == [torch.randperm(23, generator=generator(4, e, "shuffle")).tolist() for e in range(3)]
    assert checkpoint.saved == [1, 2, 3]
    assert (trained.selected_epoch, trained.resumed_from) == (3, 0)
    assert trained.seconds_per_epoch > 0


def test_the_rate_follows_every_step_and_the_loss_is_the_mean_over_images(task, monkeypatch) -> None:
    """Labels are all 0, so each step's gradient and loss are known: p - (1, 0, 0)."""
    plan = recipe(epochs=2, batch_size=8, lr=0.5, schedule="cosine", momentum=0.0, weight_decay=0.0)
    net = Watching()
    trained = task.train(net, plan, seed=0, checkpoint=Checkpoint(), select="last")
    weight, losses = torch.zeros(3), []
    for epoch in range(2):
        total = 0.0
        for step, size in enumerate((8, 8, 7)):
            total += size * float(-weight.log_softmax(0)[0])
            rate = learning_rate(plan, epoch + step / 3)
            weight = weight - rate * (weight.softmax(0) - torch.tensor([1.0, 0, 0]))
        losses.append(total / 23)
    torch.testing.assert_close(net.weight.detach(), weight)
    assert [epoch["train_loss"] for epoch in trained.curve] == pytest.approx(losses)
    assert [epoch["lr"] for epoch in trained.curve] == pytest.approx([learning_rate(plan, e + 2 / 3) for e in range(2)])
    assert [epoch["epoch"] for epoch in trained.curve] == [1, 2]
    assert trained.curve[-1]["loss"] == pytest.approx(float(-weight.log_softmax(0)[0]))


def test_gradients_are_clipped_to_their_norm(task) -> None:
    net = Watching()
    plan = recipe(batch_size=64, lr=1, schedule="constant", momentum=0.0, weight_decay=0.0, clip_grad=0.25)
    task.train(net, plan, seed=0, checkpoint=Checkpoint(), select="last")
    assert float(net.weight.detach().norm()) == pytest.approx(0.25, rel=1e-4)


def test_each_epoch_is_logged_with_the_time_that_is_left(task, caplog) -> None:
    with caplog.at_level(logging.INFO, logger=EPOCHS):
        task.train(Watching(), recipe(epochs=2, batch_size=64, lr=0.1), seed=0, checkpoint=Checkpoint(), select="last")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "epoch 1 of 2: loss 1.099, top1 100.00 %"  # log 3: nothing is known yet
    assert lines[1].startswith("epoch 2 of 2: loss ")
    left = [record.left for record in caplog.records]
    assert left[0] > 0 == left[1]


def test_augmentations_of_boxes_are_refused_for_classes(task) -> None:
    with pytest.raises(UserError, match="unknown augment 'mosaic'"):
        task.train(Watching(), recipe(augment=("flip", "mosaic")), seed=0, checkpoint=Checkpoint())
