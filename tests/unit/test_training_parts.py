"""The parts of training worked by hand: rates, decay, moves and mixes of images, the loss, the average of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from raybench.datasets.data import random_boxes
from raybench.datasets.facts import DataFacts
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.ema import Average
from raybench.tasks.training.loss import TEMPERATURE, training_loss
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.optimize import learning_rate, make_optimizer, set_rates
from raybench.tasks.training.seeding import generator
from raybench.tokens.attached import reduced, reducer_named
from tests.augmentations import augmented, crop_resized, erased, flipped, mix, randaugment, shifted

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_parameters_of_a_token_method_have_a_rate_of_their_own(kind):
    facts = DataFacts("x", "classification", 3, 3, 8, (0.5,) * 3, (0.5,) * 3, "")
    vit, image = build_model("vit-nano", facts), torch.zeros(1, 3, 8, 8)
    method = reducer_named("dynamicvit", {"backbone_rate": 0.1, "frozen": 0.25})
    model, _ = reduced(vit, image, method, (0, 4, 2))
    recipe = TrainRecipe(epochs=8, optimizer=kind, lr=1.0, warmup_epochs=4)
    optimizer = make_optimizer(model, recipe, CPU)
    own = set(map(id, model.stages.parameters()))
    for epoch, network, predictors in ((1.0, 0.0, 0.25), (2.0, 0.1, 0.5), (7.9, *[learning_rate(recipe, 7.9)] * 2)):
        set_rates(optimizer, model, recipe, epoch)
        rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
        assert [rates[id(one)] for one in vit.parameters()] == pytest.approx([network] * len(list(vit.parameters())))
        assert [rates[one] for one in own] == pytest.approx([predictors] * len(own))
    assert optimizer.param_groups[0]["own"]  # the curve shows the recipe's rate
    decays = sorted(group["weight_decay"] for group in optimizer.param_groups)
    assert (len(rates), decays) == (
        len(list(model.parameters())),
        {"sgd": [5e-4] * 2, "adamw": [0, 0] + [5e-4] * 2}[kind],
    )


def test_parameters_have_one_rate_where_a_method_has_none():
    facts = DataFacts("x", "classification", 3, 3, 8, (0.5,) * 3, (0.5,) * 3, "")
    model, _ = reduced(build_model("vit-nano", facts), torch.zeros(1, 3, 8, 8), reducer_named("tome", {}), (1, 1, 1))
    recipe = TrainRecipe(epochs=8, optimizer="adamw", lr=1.0)
    optimizer = make_optimizer(model, recipe, CPU)
    set_rates(optimizer, model, recipe, 4.0)
    assert [group["lr"] for group in optimizer.param_groups] == [learning_rate(recipe, 4.0)] * 2


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


def test_the_average_of_weights():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = Average(net, 0.75)
    nn.init.ones_(net.weight)
    average.update()
    with average.swapped_into(net):
        assert net.weight.item() == pytest.approx(0.25)
    assert net.weight.item() == 1
