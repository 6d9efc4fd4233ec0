"""What each process of `test_detection_team` runs: the first trains and evaluates detectors, the second takes part."""

import os

import torch
import torch.distributed as dist

from raybench.datasets.open import open_dataset
from raybench.models.offline import offline
from raybench.models.ultralytics import yolo
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.detection import Detection
from raybench.tasks.shared import SharedTask, take_part
from raybench.tasks.training.team import ALONE
from tests.unit.team_process import CPU, Saved, joined

with offline():
    from ultralytics.utils import LOCAL_RANK

RECIPE = TrainRecipe(
    epochs=1, batch_size=6, lr=0.01, momentum=0.9, clip_grad=10.0, augment=("mosaic", "hsv", "flip"),
    ema=0.9,
)  # fmt: skip
NETS = {"one branch": ("yolov8", "tiny"), "two branches": ("yolo26", "n")}


def task(team=ALONE):
    """A task on 11 training images: batches of 5 and 6; the processes have different numbers of images and boxes."""
    data = open_dataset("digits-detection", {"train": 11, "val": 5, "test": 37, "image_size": 64}, None)
    return Detection(data, CPU, team=team)


def trained(one, name):
    """Curve, weights, and figures of the test split, of three batches."""
    config, scale = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = yolo(10, 3, 64, config=config, scale=scale)
    done = one.train(net, RECIPE, seed=3, checkpoint=Saved(), select="last")
    return {"curve": done.curve, "weights": net.state_dict(), "test": one.evaluate(net, "test")}


def run(rank, size, folder):
    """One of `size` processes; the first writes what it found."""
    team = joined(rank, size, folder)
    if rank:
        take_part(lambda: task(team), team)
    else:
        one = SharedTask(task(team), team)
        ranks = {"as one of": (os.environ["WORLD_SIZE"], LOCAL_RANK)}
        torch.save({name: trained(one, name) for name in NETS} | ranks, f"{folder}/found")
        team.say(None)
    dist.destroy_process_group()
