"""Augmentation beside straightforward forms: one image at a time, plain arithmetic, the papers' ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from raybench.errors import UserError
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.mix import _beta
from raybench.tasks.training.randaugment import operation_draws, with_operations
from raybench.tasks.training.seeding import generator
from tests.augmentations import augmented, erased, mix, randaugment, randaugmented, shifted
from tests.oracles import randaugment as library
from tests.oracles.randaugment import OPERATIONS

SIZE = 21


def recipe(**options) -> TrainRecipe:
    return TrainRecipe(epochs=1, lr=1, **options)


def ramp(axis: int) -> Tensor:
    """(1, 3, 21, 21): the row (axis 0) or column (axis 1) of each pixel, from the centre, as a share of 0.1 to 0.9."""
    line = torch.linspace(0.1, 0.9, SIZE)
    return (line[:, None] if axis == 0 else line[None]).expand(1, 3, SIZE, SIZE).contiguous()


def gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def blend(images: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def grid() -> tuple[Tensor, Tensor]:
    """(rows, columns) of the pixels, from the centre."""
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    return line[:, None].expand(SIZE, SIZE), line[None].expand(SIZE, SIZE)


def assert_moved(operation, level: float, source) -> None:
    """`operation` shows at (row, column) the pixel nearest to `source(row, column)`, and black from outside."""
    rows, columns = source(*grid())
    half, step = (SIZE - 1) / 2, 0.8 / (SIZE - 1)
    inside = (rows.abs() < half - 0.5) & (columns.abs() < half - 0.5)
    outside = (rows.abs() > half + 1) | (columns.abs() > half + 1)
    for axis, where in ((0, rows), (1, columns)):
        found = operation(ramp(axis), level)[0]
        error = (found - (0.1 + (where + half) * step)).abs()
        assert error[:, inside].max() <= 0.51 * step
        assert (found[:, outside] == 0).all()
    assert inside.float().mean() > 0.3


@pytest.mark.parametrize("level", [0.9, -0.9, 0.4])
def test_geometry_of_randaugment(level: float) -> None:
    """The paper's most: a shear of 0.3, a shift of 45 %, 30 degrees; at `level` of it."""
    shear, shift = 0.3 * level, round(0.45 * level * SIZE)
    sin, cos = math.sin(math.radians(30 * level)), math.cos(math.radians(30 * level))
    assert_moved(OPERATIONS[1], level, lambda y, x: (y, x + shear * y))
    assert_moved(OPERATIONS[2], level, lambda y, x: (y + shear * x, x))
    assert_moved(OPERATIONS[3], level, lambda y, x: (y, x - shift))
    assert_moved(OPERATIONS[4], level, lambda y, x: (y - shift, x))
    assert_moved(OPERATIONS[5], level, lambda y, x: (cos * y + sin * x, cos * x - sin * y))


@pytest.mark.parametrize("level", [1.0, 0.5, -0.9])
def test_colours_of_randaugment(level: float) -> None:
    images = torch.rand(3, 3, 9, 7, generator=generator(0))
    factor = 1 + 0.9 * level
    expected = {
        0: images,
        6: blend(images, torch.zeros(()), factor),
        7: blend(images, gray(images), factor),
        8: blend(images, gray(images).mean((1, 2, 3), keepdim=True), factor),
        11: torch.where(images >= 1 - abs(level), 1 - images, images),
        12: (images - images.amin((2, 3), keepdim=True))
        / (images.amax((2, 3), keepdim=True) - images.amin((2, 3), keepdim=True)),
    }
    for number, value in expected.items():
        torch.testing.assert_close(OPERATIONS[number](images, level), value, atol=2e-3, rtol=0)
    pixels = (images * 255).round().to(torch.uint8)
    bits = 8 - round(4 * abs(level))
    kept = (pixels // 2 ** (8 - bits)) * 2 ** (8 - bits)
    torch.testing.assert_close(OPERATIONS[10](images, level), kept / 255, atol=1e-6, rtol=0)
    for image, ours in zip(pixels, OPERATIONS[13](images, level), strict=True):
        theirs = np.asarray(ImageOps.equalize(Image.fromarray(image.permute(1, 2, 0).numpy())))
        torch.testing.assert_close(ours, torch.from_numpy(theirs.copy()).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(("magnitude", "level"), [(9, 0.9), (3, 0.3), (10, 1.0), (25, 1.0)])
def test_randaugment_is_two_operations_of_random_sign_on_each_image(magnitude: int, level: float) -> None:
    images = torch.rand(48, 3, 8, 8, generator=generator(1))
    before, draw = images.clone(), generator(magnitude)
    expected = []
    rounds = [(torch.randint(0, 14, (48,), generator=draw), torch.rand(48, generator=draw)) for _ in range(2)]
    for i, image in enumerate(images):
        for numbers, signs in rounds:
            signed = -level if signs[i] < 0.5 else level
            image = OPERATIONS[numbers[i]](image[None], signed)[0].clamp(0, 1)
        expected.append(image)
    torch.testing.assert_close(randaugment(images, magnitude, generator(magnitude)), torch.stack(expected))
    assert torch.equal(images, before)
    assert len(OPERATIONS) == 14
    assert torch.equal(randaugmented(images, recipe(randaugment=9), generator(3)), randaugment(images, 9, generator(3)))
    assert randaugmented(images, recipe(), generator(3)) is images


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
def test_sharpness_is_torchvisions(factor: float) -> None:
    images = torch.rand(2, 3, 9, 12, generator=generator(0))
    expected = TF.adjust_sharpness(images, factor)
    assert torch.allclose(library._sharpen(images, factor).clamp(0, 1), expected, atol=1e-6)


SHAPES = [(3, 32, 32), (1, 8, 8), (3, 21, 21), (1, 13, 40), (3, 7, 5), (3, 2, 2), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("magnitude", [1, 5, 9, 10])
def test_all_images_together_have_the_bits_of_one_operation_after_another(shape, magnitude: int) -> None:
    """Nothing is left of a batch, or all of it, in some group; images of a single value are among them."""
    for count, seed in ((1, 0), (1, 1), (2, 2), (5, 3), (130, 4), (130, 5)):
        draw = generator(seed, magnitude)
        images = torch.rand(count, *shape, generator=draw)
        if seed % 2:  # as bytes are
            images = (images * 255).round() / 255
            images[: count // 3] = images[: count // 3].mean((2, 3), keepdim=True)
        before, draws = images.clone(), operation_draws(count, draw)
        assert torch.equal(with_operations(images, magnitude, draws), library.with_operations(images, magnitude, draws))
        assert torch.equal(images, before)


def test_threads_change_nothing() -> None:
    """Large enough that torch divides the sum of one image among them."""
    before = torch.get_num_threads()
    images = torch.rand(12, 3, 200, 200, generator=generator(0))
    draws = tuple((torch.tensor([8] * 3 + [7] * 9), torch.arange(12) < most) for most in (1, 3))
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(with_operations(images, 9, draws), library.with_operations(images, 9, draws))
    finally:
        torch.set_num_threads(before)


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(UserError, match="randaugment: found images of 2 channels, expected 1 or 3"):
        randaugment(torch.rand(4, 2, 8, 8), 9, generator(0))


@pytest.mark.parametrize(("height", "width", "share"), [(16, 16, 0.7), (12, 30, 1.0), (6, 5, 0.3)])
def test_erasing_is_one_box_of_noise_within_the_papers_ranges(height: int, width: int, share: float) -> None:
    images = torch.rand(40, 2, height, width, generator=generator(0))
    draw, expected = generator(7), images.clone()
    for i, (u, area, ratio, down, right) in enumerate(torch.rand(40, 5, generator=draw).tolist()):
        if u < share:
            pixels = (0.02 + (0.33 - 0.02) * area) * height * width
            aspect = 0.3 * (1 / 0.3 / 0.3) ** ratio
            tall = round(min(max(math.sqrt(pixels * aspect), 1), height))
            wide = round(min(max(math.sqrt(pixels / aspect), 1), width))
            top, left = math.floor(down * (height - tall)), math.floor(right * (width - wide))
            expected[i, :, top : top + tall, left : left + wide] = torch.randn(2, tall, wide, generator=draw)
    before = images.clone()
    assert torch.equal(erased(images, recipe(random_erasing=share), generator(7)), expected)
    assert torch.equal(images, before)
    assert erased(images, recipe(), generator(7)) is images


def interval(size: int, share: float, centre: float) -> list[int]:
    """Pixels of a box of `share` of the size around `centre`, as far as they are in the image."""
    half, middle = int(size * math.sqrt(1 - share)) // 2, int(centre * size)
    return [i for i in range(size) if middle - half <= i < middle + half]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids="-".join)
def test_mixes_are_the_papers(options, seed: int) -> None:
    images, labels = torch.rand(6, 2, 10, 14, generator=generator(0)), torch.arange(6)
    draw = generator(seed)
    numbers = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
    order = torch.randperm(6, generator=draw)
    cutting = "cutmix" in options and ("mixup" not in options or numbers[0] < 0.5)
    share = _beta(options["cutmix" if cutting else "mixup"], numbers[1])
    expected = share * images + (1 - share) * images[order]
    if cutting:
        expected = images.clone()
        rows, columns = interval(10, share, numbers[2]), interval(14, share, numbers[3])
        for y in rows:
            for x in columns:
                expected[:, :, y, x] = images[order, :, y, x]
        share = 1 - len(rows) * len(columns) / 140
    given = images.clone()
    mixed = mix(given, labels, recipe(**options), generator(seed))
    torch.testing.assert_close(mixed.images, expected)
    assert (mixed.labels.tolist(), mixed.others.tolist()) == (labels.tolist(), order.tolist())
    assert mixed.share == pytest.approx(share)
    assert not cutting or torch.equal(given, images)


def test_nothing_is_mixed_unless_asked() -> None:
    images, labels = torch.rand(2, 1, 2, 2, generator=generator(0)), torch.arange(2)
    mixed = mix(images, labels, recipe(), generator(0))
    assert (mixed.images is images, mixed.labels is labels, mixed.others is labels, mixed.share) == (True,) * 3 + (1.0,)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    uniform = torch.rand(2000, generator=generator(0), dtype=torch.float64).tolist()
    drawn = [_beta(alpha, u) for u in uniform]
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert drawn[:5] == [_beta(alpha, u) for u in uniform[:5]]


@pytest.mark.parametrize(
    ("name", "height", "width", "most"),
    [("shift", 8, 8, 1), ("crop", 8, 16, 2), ("crop", 12, 32, 4), ("crop", 9, 5, 1)],
)
def test_moves_reach_every_place_in_both_directions(name: str, height: int, width: int, most: int) -> None:
    """Each pixel's value is its place, from 1; black comes in from outside."""
    image = torch.arange(1.0, height * width + 1).reshape(1, 1, height, width)
    moved = augmented(image.expand(300, 1, height, width), recipe(augment=(name,)), generator(0))
    places = {(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)}
    found = set()
    for one in moved[:, 0]:
        value = int(one[height // 2, width // 2]) - 1
        y, x = value // width - height // 2, value % width - width // 2
        expected = torch.zeros(height, width)
        for row in range(height):
            for column in range(width):
                if 0 <= row + y < height and 0 <= column + x < width:
                    expected[row, column] = (row + y) * width + column + x + 1
        assert torch.equal(one, expected)
        found.add((y, x))
    assert len(found & places) > 0.95 * len(places)
    assert found <= places
    assert torch.equal(shifted(image, 2, generator(1)), shifted(image, 2, generator(1)))
