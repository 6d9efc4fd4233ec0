"""A detector's epochs against ultralytics' own functions: parameter groups, warm-up, moving average, weights."""

import copy
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench.datasets.open import open_dataset
from raybench.models.offline import offline
from raybench.models.ultralytics import yolo
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks import detection_training as ours
from raybench.tasks.training.ema import Average
from raybench.tasks.training.progress import TrainingState

with offline():
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.utils.loss import v8DetectionLoss
    from ultralytics.utils.torch_utils import ModelEMA

CPU = torch.device("cpu")
SGD = TrainRecipe(epochs=4, batch_size=4, lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4, schedule="cosine",
                  min_lr=1e-4, warmup_epochs=2, ema=0.9999, clip_grad=10.0, augment=("mosaic", "flip"))  # fmt: skip


def detector():
    torch.manual_seed(0)
    model = yolo(10, 3, 64, config="yolov8", scale="tiny")
    ours.freeze_integral(model)
    return model


def theirs(model, recipe):
    name = {"sgd": "SGD", "adamw": "AdamW"}[recipe.optimizer]
    return BaseTrainer.build_optimizer(SimpleNamespace(), model, name, recipe.lr, recipe.momentum, recipe.weight_decay)


@pytest.mark.parametrize("recipe", [SGD, TrainRecipe(epochs=1, optimizer="adamw", lr=0.002, weight_decay=0.03)])
def test_the_same_weights_decay_as_in_ultralytics(recipe):
    model = detector()
    settings = []
    for optimizer in (ours.make_optimizer(model, recipe, CPU), theirs(model, recipe)):
        assert type(optimizer).__name__.lower() == recipe.optimizer
        settings.append({id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]})
        kept = ("lr", "betas", "momentum", "nesterov", "dampening", "eps")
        settings.append({key: value for key, value in optimizer.param_groups[0].items() if key in kept})
    assert settings[0] == settings[2]
    assert settings[1] == settings[3]
    assert set(settings[0].values()) == {recipe.weight_decay, 0.0}


def test_an_epoch_leaves_the_weights_and_the_average_that_ultralytics_parts_leave():
    data = open_dataset("digits-detection", {"train": 12, "val": 4, "test": 4, "image_size": 64}, None)
    model, epochs, steps = detector(), 3, 3
    other = copy.deepcopy(model)
    progress = TrainingState(model, ours.make_optimizer(model, SGD, CPU), Average(model, SGD.ema), None)
    batches, loss = [], v8DetectionLoss(model)

    def recording(raw, truth):
        batches[-1].append(truth)
        return loss(raw, truth)

    images = []
    model.register_forward_pre_hook(lambda module, inputs: images.append(inputs[0].clone()))
    inputs = ours.EpochInputs(data, SGD, 5, CPU, recording)
    for epoch in range(epochs):
        batches.append([])
        ours.run_epoch(progress, inputs, epoch)
    seen = iter(images)
    optimizer, average, loss = theirs(other, SGD), ModelEMA(other), v8DetectionLoss(other.train())
    warm = round(SGD.warmup_epochs * steps)
    for number, truth in enumerate(truth for epoch in batches for truth in epoch):
        rate = ours.learning_rate(SGD, number / steps)
        for group in optimizer.param_groups:  # as in ultralytics' loop, whose interpolation this is
            start = 0.1 if group["param_group"] == "bias" else 0.0
            group["lr"] = np.interp(number, [0, warm], [start, SGD.lr]) if number <= warm else rate
            group["momentum"] = np.interp(number, [0, warm], [0.8, SGD.momentum])
        optimizer.zero_grad()
        loss(other(next(seen)), truth)[0].sum().backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), max_norm=10.0)
        optimizer.step()
        average.update(other)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)
    for name, value in average.ema.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(progress.average.weights[name], value, rtol=1e-3, atol=1e-5, msg=name)
    start = detector().state_dict()["model.0.conv.weight"]
    assert not torch.allclose(progress.average.weights["model.0.conv.weight"], start, atol=1e-4)


def test_a_warm_up_moves_rates_and_momentum_and_ends():
    model = detector()
    optimizer = ours.make_optimizer(model, SGD, CPU)
    for epoch, bias, momentum in ((0.0, 0.1, 0.8), (1.0, 0.055, 0.8685), (2.0, 0.01, 0.937), (4.0, 1e-4, 0.937)):
        ours.set_rates_and_momentum(optimizer, SGD, epoch)
        weight = min(0.005 * epoch, 0.01) if epoch < 4 else 1e-4
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([weight, weight, bias])
        assert {round(group["momentum"], 6) for group in optimizer.param_groups} == {momentum}
    assert ours.average_decay(SGD, 2000) == pytest.approx(0.9999 * (1 - np.exp(-1)))
