"""Augmentation of a batch, beside torchvision's transforms v2 image by image: CPU milliseconds an image, on one core.

    python -m tests.benchmarks.bench_augment

A ratio above 1 says how many times faster ours is. CPU time, not wall time: other work on the machine doesn't count.
"""

import time

import torch
from torchvision.transforms import v2

from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.seeding import generator
from tests.augmentations import augmented, erased, randaugmented

SIZES = {32: 128, 224: 32}  # pixels -> images of a batch
REPEATS = 3


def milliseconds(work, images):
    """The least CPU milliseconds an image of a few runs."""
    took = []
    for _ in range(REPEATS + 1):  # the first one warms up
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return 1e3 * min(took[1:]) / images


def pairs(size):
    """(name, our settings, our function, torchvision's transform of one image) of each augmentation."""

    def ours(**settings):
        return TrainRecipe(epochs=1, lr=1.0, **settings)

    yield "crop", ours(augment=("crop",)), augmented, v2.RandomCrop(size, padding=size // 8)
    yield "flip", ours(augment=("flip",)), augmented, v2.RandomHorizontalFlip()
    yield "randaugment", ours(randaugment=9), randaugmented, v2.RandAugment(2, 9)
    yield "erasing", ours(random_erasing=0.25), erased, v2.RandomErasing(0.25, (0.02, 0.33), value="random")


def measure():
    """One row a size and augmentation."""
    for size, count in SIZES.items():
        images = torch.rand(count, 3, size, size, generator=generator("benchmark"))
        for name, recipe, function, theirs in pairs(size):
            one = milliseconds(lambda x=images, f=function, r=recipe: f(x, r, generator(0)), count)
            other = milliseconds(lambda x=images, t=theirs: torch.stack([t(image) for image in x]), count)
            yield {"pixels": size, "augmentation": name, "ours": one, "torchvision": other, "ratio": other / one}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'pixels':>6}  {'augmentation':<12}  {'ours ms':>8}  {'torchvision ms':>14}  {'ratio':>6}")
    for row in measure():
        print(f"{row['pixels']:>6}  {row['augmentation']:<12}  {row['ours']:>8.4f}  {row['torchvision']:>14.4f}  "
              f"{row['ratio']:>6.1f}")  # fmt: skip
