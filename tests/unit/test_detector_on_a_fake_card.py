"""A detector's training and metrics on a card that is made of the processor's memory: the numbers are the CPU's."""

from __future__ import annotations

import importlib.util

import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench.datasets.open import open_dataset
from raybench.models.ultralytics import yolo
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.detection import Detection
from tests.card import a_card, forget
from tests.kept import Kept

RECIPE = TrainRecipe(epochs=1, batch_size=4, lr=0.001, warmup_epochs=0.5, ema=0.9, clip_grad=10.0, augment=("flip",))
PARTS = {"train": 8, "val": 4, "test": 4, "image_size": 64}


def trained(device: torch.device):
    torch.manual_seed(0)
    net = yolo(10, 3, 64, config="yolov8", scale="tiny").to(device)
    task = Detection(open_dataset("digits-detection", PARTS, None), device)
    forget()
    return net, task.train(net, RECIPE, seed=0, checkpoint=Kept()), task.evaluate(net, "test")


def test_a_detector_on_a_card_is_that_of_a_cpu(monkeypatch) -> None:
    plain, told, metrics = trained(torch.device("cpu"))
    with a_card(monkeypatch) as card:
        net, found, there = trained(torch.device("cuda"))
        for name, value in net.state_dict().items():
            assert value.device.type == "cuda"
            torch.testing.assert_close(value.cpu(), plain.state_dict()[name], rtol=1e-5, atol=1e-6)
        ours = [one for one in card.waits if one.where.startswith("detection_training")]
        assert len(ours) <= 1, "the loss, once an epoch; ultralytics' loss waits by itself"
    assert there == pytest.approx(metrics, rel=1e-4)
    assert found.curve[0]["train_loss"] == pytest.approx(told.curve[0]["train_loss"], rel=1e-5)
