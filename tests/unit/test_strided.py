"""Strided 1x1 convolutions with few channels, whose backward pass corrupts memory in torch 2.14 on channels-last data.

In processes of their own: without the guard they die.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from raybench.datasets.open import open_dataset
from tests import forked

TRAINING = """
import torch
from torch import nn
from raybench.models.strided import strided_in_nchw
torch.set_num_threads(1)
last = torch.channels_last
for case in ("inputs", "weights", "permuted"):
    for channels, size in ((3, 224), (9, 112), (13, 112)):
        conv = nn.Conv2d(channels, 24, 1, 2)
        net = nn.Sequential(nn.Identity(), conv)
        images = torch.randn(8, channels, size, size)
        before, plain = conv.weight.detach().clone(), torch.nn.functional.conv2d(images, conv.weight, conv.bias, 2)
        if case == "weights":
            net.to(memory_format=last)
        elif case == "inputs":
            images = images.to(memory_format=last)
        else:
            images = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        images.requires_grad_()
        with strided_in_nchw(net):
            for _ in range(8):
                out = net(images)
                out.sum().backward()
        assert torch.equal(conv.weight, before) and torch.allclose(out, plain, atol=1e-5)
    assert not conv._forward_pre_hooks
print("survived")
"""


def test_the_guard_keeps_the_process_alive_for_every_way_to_channels_last():
    done = forked.run(TRAINING)
    assert (done.returncode, done.stdout.strip()) == (0, "survived"), done.stderr


PHOTOS = """
import sys
from pathlib import Path
import torch
from torch import nn
import raybench
from raybench.datasets.open import open_dataset
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import Classification

torch.set_num_threads(1)
class Net(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.last, self.stem, self.body = last, nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 20, 3, 2, 1)
        self.skip, self.head = nn.Conv2d(12, 20, 1, 2), nn.Linear(20, 2)
    def forward(self, x):
        if self.last:
            x = x.to(memory_format=torch.channels_last)
        x = self.stem(x).relu()
        return self.head((self.body(x) + self.skip(x)).relu().mean((2, 3)))

class Nothing:
    def load(self):
        return None
    def save(self, state):
        pass

data = open_dataset("imagefolder", {"val_share": 0.25}, Path(sys.argv[1]))
task = Classification(data, torch.device("cpu"))
recipe = TrainRecipe(epochs=4, lr=0.01, batch_size=8)
for last in (False, True):
    net = Net(last)
    task.train(net, recipe, seed=0, checkpoint=Nothing())
    small = raybench.prune(net, torch.zeros(1, 3, 224, 224), 2).model
    task.train(small, recipe, seed=0, checkpoint=Nothing())
print("survived")
"""


def photos(root, size, count):
    """Class folders of noise."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_training_on_photos_dense_and_pruned(tmp_path):
    done = forked.run(PHOTOS, photos(tmp_path, 224, 8))
    assert (done.returncode, done.stdout.strip()) == (0, "survived"), done.stderr


def test_photos_come_as_nchw_on_a_cpu(tmp_path):
    data = open_dataset("imagefolder", {"image_size": 16, "val_share": 0.5}, photos(tmp_path, 16, 2))
    (batch,) = data.test.batches([torch.arange(4)], torch.device("cpu"), None)
    assert batch.is_contiguous()
    with Image.open(data.test._listing.files[3]) as image:
        assert torch.equal((batch[3] * 255).round().byte(), torch.from_numpy(np.array(image)).permute(2, 0, 1))
