"""What each process of `test_team` runs: the first trains and evaluates, the second takes part."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from raybench import registry
from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.groups.trace import trace
from raybench.selection.trained import budget_of
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.classification import Classification
from raybench.tasks.shared import SharedTask, take_part
from raybench.tasks.training.team import ALONE, Peers

CPU = torch.device("cpu")
PLAIN = TrainRecipe(epochs=2, batch_size=9, lr=0.05, clip_grad=1.0)  # 31 images: batches of 7 and 8
RECIPES = {
    "plain": PLAIN,
    "moved, mirrored, erased": PLAIN.model_copy(
        update={"augment": ("crop", "flip"), "random_erasing": 0.5, "randaugment": 3, "ema": 0.5}
    ),
    "resized crops and smaller images first": PLAIN.model_copy(
        update={"augment": ("resized-crop",), "start_scale": 0.6, "optimizer": "adamw", "lr": 0.01}
    ),
    "mixed": PLAIN.model_copy(update={"mixup": 0.4, "cutmix": 1.0, "augment": ("shift",), "label_smoothing": 0.1}),
    "distilled": PLAIN.model_copy(update={"distill": 0.5}),
}
IMAGES = 31
SELECTIONS = {  # that more than one process may train, with what makes them act in 8 steps
    "resrep": {"strength": 0.5, "momentum": 0.5, "start": 0, "every": 1, "rows": 1},
    "greg-1": {"growth": 0.5, "interval": 1},
    "tpp": {"growth": 0.5, "interval": 1, "weight": 1.0},
}
REGULARIZERS = ("group-lasso", "group-norm", "growing-reg", "bn-scale")


class Net(nn.Module):
    """Two convolutions with batch norms of two kinds; a bias before a norm would have noise for a gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.deep, self.norm = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=None, affine=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        """Class scores."""
        deep = self.norm(self.deep(torch.relu(self.bn(self.conv(images)))))
        return self.fc(torch.relu(deep).mean((2, 3)))


class Shrinking:
    """A regularizer with state, which is bound to the network's own weights."""

    capturable = False

    def __init__(self, model):
        self._weight, self.calls = model.conv.weight, 0

    def add_gradients(self):
        """Pull the first weights towards zero, harder with every step."""
        self.calls += 1
        self._weight.grad.add_(self._weight.detach(), alpha=0.001 * self.calls)

    def end_epoch(self):
        """Nothing."""

    def state_dict(self):
        """The number of steps."""
        return {"calls": self.calls}

    def load_state_dict(self, state):
        """Restore it."""
        self.calls = state["calls"]


def sparsified(one, name):
    """The weights after training with a regularizer of ours."""
    net = network()
    if name in SELECTIONS:
        return selected(one, name, net)
    penalty = registry.regularizer.load(name)()
    penalty.bind(net, trace(net, torch.zeros(1, 1, 10, 12)))
    one.train(net, PLAIN, seed=3, checkpoint=Saved(), regularizer=penalty, select="last")
    return net.state_dict()


def selected(one, name, net):
    """The folded weights after training with a selection of ours, and the units that it keeps."""
    selection, example = registry.selection.load(name)(**SELECTIONS[name]), torch.zeros(1, 1, 10, 12)
    groups = trace(net, example)
    budget = budget_of(net, example, groups, 1.5, strategy="global", round_to=1, seed=0)
    selection.attach(net, budget)
    one.train(net, PLAIN, seed=3, checkpoint=Saved(), regularizer=selection, select="last")
    kept = {name: torch.from_numpy(units) for name, units in selection.kept().items()}
    selection.fold()
    return net.state_dict() | kept


class Saved:
    """A checkpoint in memory; at epoch `ends` it stops the training."""

    def __init__(self, state=None, ends=None):
        self.state, self.ends, self.saves = state, ends, 0

    def load(self):
        """The given state."""
        return self.state

    def save(self, state):
        """Keep it."""
        self.saves += 1
        if state["epoch"] == self.ends:
            raise ValueError("stopped early")


def network():
    """The same weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def task(team=ALONE):
    """A task on images that are the same in every process."""
    draw = torch.Generator().manual_seed(1)
    pixels = Pixels(torch.randint(0, 256, (70, 1, 10, 12), generator=draw, dtype=torch.uint8))
    labels = torch.randint(0, 5, (70,), generator=draw)
    parts = torch.arange(70).split([IMAGES, 20, 19])
    train, val, test = (TensorImages(pixels, labels, part) for part in parts)
    facts = DataFacts("noise", "classification", 5, 1, (10, 12), (0.5,), (0.3,), "")
    return Classification(Data(facts, train, val, test, train, ""), CPU, team=team)


def trained(one, name, checkpoint=None):
    """What training gives: curve, weights, and figures of the test split."""
    net, recipe = network(), RECIPES[name]
    teacher = network().eval() if recipe.distill else None
    penalty = Shrinking(net) if name == "plain" else None
    done = one.train(
        net, recipe, seed=3, checkpoint=checkpoint or Saved(), regularizer=penalty, teacher=teacher, select="last"
    )
    return {"curve": done.curve, "weights": net.state_dict(), "test": one.evaluate(net, "test"),
            "calls": penalty.calls if penalty else 0}  # fmt: skip


def lead(team):
    """The first process: every recipe, then a stage that ends early, then one more call."""
    one = SharedTask(task(team), team)
    found = {name: trained(one, name) for name in RECIPES}
    found |= {name: sparsified(one, name) for name in (*REGULARIZERS, *SELECTIONS)}
    checkpoint = Saved(ends=1)
    try:
        trained(one, "plain", checkpoint)
    except ValueError as error:
        found["stopped"] = (str(error), checkpoint.saves, team.whole)
    unsendable = network()
    unsendable.inside = lambda images: images
    try:
        one.evaluate(unsendable, "val")
    except UserError as error:
        found["unsendable"] = (str(error), team.whole)
    found["after"] = one.evaluate(network(), "val")
    team.say(None)
    return found


def gradients(team):
    """Gradients of one batch of 7 images by all processes."""
    net = network().train()
    draw = torch.Generator().manual_seed(5)
    images, labels = torch.randn(7, 1, 8, 8, generator=draw), torch.randint(0, 5, (7,), generator=draw)
    own, truth = team.share(images), team.share(labels)
    with team.norms():
        loss = nn.functional.cross_entropy(net(own), truth)
        team.backward(net, loss, len(own) / len(images))
    found = {name: weight.grad for name, weight in net.named_parameters()}
    return found | {f"stat {name}": value for name, value in net.named_buffers()}


def joined(rank, size, folder):
    """The team of this process, one of `size` that meet in `folder`."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    return Peers(CPU)


def run(rank, size, folder):
    """One of `size` processes; the first writes what it found."""
    team = joined(rank, size, folder)
    gradient = gradients(team)
    if rank:
        take_part(lambda: task(team), team)
        torch.save(gradient, f"{folder}/gradients-{rank}")
    else:
        torch.save(lead(team) | {"gradients": gradient}, f"{folder}/found")
    dist.destroy_process_group()
