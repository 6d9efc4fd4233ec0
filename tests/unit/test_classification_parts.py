"""The classification task by hand: figures over many batches, calibration by its seed, what a wrong model is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import Classification, _described
from raybench.tasks.open import _reading, open_task
from raybench.tasks.training.seeding import generator
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
CLASSES = 7
MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)


@pytest.fixture
def data() -> Data:
    """400 training, 300 validation and 520 test images of 2 x 2 pixels."""
    draw = generator("images")
    pixels, labels = Pixels(torch.rand(1220, 3, 2, 2, generator=draw)), torch.randint(7, (1220,), generator=draw)
    spans = ((0, 400), (400, 700), (700, 1220), (0, 700))
    splits = [TensorImages(pixels, labels, torch.arange(*span)) for span in spans]
    return Data(DataFacts("x", "classification", CLASSES, 3, 2, MEAN, STD, ""), *splits, "")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, CLASSES))


@torch.no_grad()
def test_figures_are_means_over_all_images_in_eval_mode(data: Data, model: nn.Module) -> None:
    task = Classification(data, CPU)
    for split, images in (("val", data.val), ("test", data.test), ("train", data.train)):
        pixels = torch.cat(list(images.batches(torch.arange(len(images)).split(97), CPU, None)))
        outputs = model.eval()((pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))
        ranks = (outputs.argsort(1, descending=True) == images.labels[:, None]).int().argmax(1)
        model.train()
        found = task.evaluate(model, split)
        assert found["top1"] == pytest.approx(100 * float((ranks == 0).float().mean()), abs=1e-4)
        assert found["top5"] == pytest.approx(100 * float((ranks < 5).float().mean()), abs=1e-4)
        assert found["loss"] == pytest.approx(float(F.cross_entropy(outputs, images.labels)), rel=1e-5)
        assert set(found) == {"top1", "top5", "loss"}
        assert model.training
    task.evaluate(model.eval(), "val")
    assert not model.training


def test_calibration_images_are_the_seeds(data: Data) -> None:
    task = Classification(data, CPU)
    found = task.calibration(100, 32, 5)
    chosen = torch.randperm(400, generator=generator(5, "calibration"))[:100]
    pixels = next(iter(data.train.batches([chosen], CPU, None)))
    expected = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(found.images, expected)
    assert torch.equal(found.labels, data.train.labels[chosen])
    assert (found.batch_size, found.loss) == (32, F.cross_entropy)
    assert torch.equal(found.generator.get_state(), generator(5, "calibration labels").get_state())
    assert len(task.calibration(400, 32, 5).images) == 400
    with pytest.raises(UserError, match="401 calibration images, the training split has 400"):
        task.calibration(401, 32, 5)


class Constant(nn.Module):
    """Gives what it was made with, and remembers what it saw."""

    def __init__(self, output) -> None:
        super().__init__()
        self.output, self.saw = output, None

    def forward(self, x):
        self.saw = (tuple(x.shape), float(x.abs().sum()), self.training, torch.is_grad_enabled())
        return self.output


def test_a_model_is_checked_on_one_black_image(data: Data) -> None:
    task, right = Classification(data, CPU), Constant(torch.zeros(1, CLASSES)).train()
    task.check(right)
    assert (right.saw, right.training) == (((1, 3, 2, 2), 0.0, False, False), True)
    for output, message in (
        (torch.zeros(1, 3), "a tensor (1, 3)"),
        (torch.zeros(2, CLASSES), "a tensor (2, 7)"),
        ((torch.zeros(1, CLASSES), torch.zeros(1, 2, 2)), "a tuple of (1, 7), (1, 2, 2)"),
        ([torch.zeros(1, CLASSES), None], "a list of (1, 7), NoneType"),
        ({"out": torch.zeros(1, CLASSES), "aux": 1}, "a dict with the keys out, aux"),
        (None, "NoneType"),
    ):
        with pytest.raises(UserError, match="it must give one tensor") as error:
            task.check(Constant(output))
        assert f"model Constant: found {message} for one image" in str(error.value)
        assert _described(output) == message


def test_recipes_are_checked_stage_by_stage(data: Data) -> None:
    task, fine = Classification(data, CPU), TrainRecipe(epochs=1, lr=0.1, augment=("flip", "crop"))
    task.check_recipe((fine, fine), 400)
    with pytest.raises(UserError, match="unknown augment 'mosaic'"):
        task.check_recipe((fine, TrainRecipe(epochs=1, lr=0.1, augment=("mosaic",))), 10)
    with pytest.raises(UserError, match="401 calibration images"):
        task.check_recipe((fine,), 401)


def test_a_task_is_opened_on_the_trials_data() -> None:
    own = open_task(trial(), {}, CPU)
    assert (own.metric, own.data.name, own.data.classes) == ("top1", "digits", 10)
    published = open_task(trial(protocol="pruningbench"), {}, CPU)
    assert len(published._splits.train) == len(own._splits.train) + len(own._splits.val)
    with pytest.raises(UserError, match="dataset 'digits' is for classification, found task 'detection'"):
        open_task(trial(task="detection"), {}, CPU)


def test_what_a_reader_did_not_foresee_names_the_folder(tmp_path: Path) -> None:
    def read(error: Exception, root: Path | None = tmp_path) -> None:
        with _reading("mine", root):
            raise error

    with pytest.raises(UserError, match=r"dataset 'mine': .*: reading it failed with ValueError: one") as caught:
        read(ValueError("one\ntwo"))
    assert str(tmp_path) in str(caught.value)
    assert "two" not in str(caught.value)
    with pytest.raises(UserError, match="dataset 'mine': embedded: reading it failed with KeyError: no message"):
        read(KeyError(), None)
    with pytest.raises(UserError, match="as it was"):
        read(UserError("as it was"))
    inside = FileNotFoundError(2, "gone", str(tmp_path / "labels.txt"))
    with pytest.raises(UserError, match="reading it failed with FileNotFoundError"):
        read(inside)
    with pytest.raises(FileNotFoundError):  # of the storage, not of the data
        read(FileNotFoundError(2, "gone", "/elsewhere/file"))
    with pytest.raises(FileNotFoundError):
        read(FileNotFoundError(2, "gone", "/elsewhere/file"), None)
