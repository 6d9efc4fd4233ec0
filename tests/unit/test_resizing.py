"""Progressive resizing: sizes by epoch, the column, what it costs, and networks that can't."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raybench.errors import UserError
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import Classification
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.resizing import check_start, pixels_share, resized, size_at
from tests.kept import Kept


def recipe(epochs, scale, **more):
    return TrainRecipe(
        epochs=epochs, batch_size=32, lr=0.01, weight_decay=0, schedule="constant", start_scale=scale, **more
    )


@pytest.mark.parametrize(
    ("epochs", "scale", "full", "heights"),
    [
        (9, 0.5, (224, 160), [112, 128, 152, 168, 184, 208, 224, 224, 224]),
        (1, 0.5, (32, 32), [16]),
        (2, 0.5, (32, 32), [16, 32]),
        (3, 0.01, (30, 30), [8, 24, 30]),
        (4, 1.0, (30, 30), [30, 30, 30, 30]),
        (2, 0.5, (6, 6), [6, 6]),
    ],
)
def test_sides_grow_to_whole_ones_at_three_quarters_of_the_epochs(epochs, scale, full, heights):
    stage = recipe(epochs, scale)
    sizes = [size_at(stage, full, epoch) for epoch in range(epochs)]
    assert [size[0] for size in sizes] == heights
    assert all(side % 8 == 0 or side == whole for size in sizes for side, whole in zip(size, full, strict=True))
    expected = sum(h * w for h, w in sizes) / (epochs * full[0] * full[1])
    assert pixels_share(stage, full) == (None if scale == 1 else pytest.approx(expected))


def test_images_are_scaled_and_whole_ones_are_left():
    mixed = Mixed(torch.rand(2, 3, 16, 24), torch.zeros(2), torch.zeros(2))
    assert resized(mixed, (16, 24)) is mixed
    small = resized(mixed, (8, 16))
    torch.testing.assert_close(small.images, F.interpolate(mixed.images, (8, 16), mode="bilinear", antialias=True))
    assert small.labels is mixed.labels


class Sized(nn.Module):
    """Notes the sizes that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(10)), []

    def forward(self, x):
        if self.training:
            self.seen.append(tuple(x.shape[-2:]))
        return x.mean((1, 2, 3))[:, None] * self.weight


def test_a_stage_trains_on_growing_images_and_is_tested_on_whole_ones():
    from raybench.datasets.open import open_dataset

    task = Classification(open_dataset("digits", {}, None), torch.device("cpu"))
    full, net = task.data.image_shape[1:], Sized()
    stage = recipe(2, 0.5)
    training = task.train(net, stage, seed=0, checkpoint=Kept())
    assert sorted(set(net.seen)) == sorted({size_at(stage, full, 0), full})
    assert training.computing["train_pixels"] == pixels_share(stage, full)
    assert "train_pixels" not in task.train(Sized(), recipe(1, 1.0), seed=0, checkpoint=Kept()).computing


def test_a_network_of_one_size_is_refused_by_name():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 32 * 32, 10))
    with pytest.raises(UserError, match=r"start_scale 0.5: mine can't take images of 16x16, .*mat1"):
        check_start(net, recipe(3, 0.5), (3, 32, 32), "mine")
    check_start(net, recipe(3, 1.0), (3, 32, 32), "mine")
    assert net.training


def test_whole_images_are_not_part_of_an_id():
    assert "start_scale" not in recipe(1, 1.0).model_dump()
    assert recipe(1, 0.5).model_dump()["start_scale"] == 0.5
    assert TrainRecipe(**recipe(1, 0.5).model_dump()) == recipe(1, 0.5)
