"""The protocol `pruningbench` and one-step pruning beside torch-pruning's own loop, channel for channel."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import timm
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

from raybench import registry
from raybench.groups import surgery
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration, Importance, Layer
from raybench.scoring import scorer
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select_ratio
from tests.library_loop import Weighed, check_agreement, run
from tests.pruning_nets import small_resnet, small_vit
from tests.unit.cuts import IMAGE, L2, cuts_of

L1_OF, L2_OF = tp.importance.GroupMagnitudeImportance(p=1), tp.importance.GroupMagnitudeImportance(p=2)
TAYLOR, HESSIAN = registry.importance.load("taylor")(), registry.importance.load("obd-hessian")()


@pytest.mark.parametrize(
    ("make", "reasons"), [(small_resnet, {"overshoot", "", "floor"}), (small_vit, {"overshoot", "count", "floor"})]
)
def test_the_librarys_loop_says_why_it_is_off_its_target(make, reasons: set[str]) -> None:
    kinds = set()
    for target, cut in cuts_of(make(), [1.4, 1.6, 3.0, 500.0], protocol="pruningbench", steps=60)[1].items():
        theirs = cut.macs_tp_base / cut.macs_tp
        if theirs < target:
            expected = f"floor: best reachable {theirs:.3f} after 60 steps; groups "
        elif theirs > 1.005 * target:
            expected = f"overshoot: the library stops {theirs / target - 1:.2%} past the target"
        else:
            expected = f"count: {theirs:.3f} as torch-pruning counts" if abs(cut.speedup / target - 1) > 0.005 else ""
        assert (cut.reason or "").startswith(expected)
        assert (cut.reason is None) == (not expected)
        kinds.add(expected.partition(":")[0])
    assert kinds == reasons


def separable() -> nn.Module:
    """A depthwise convolution, which the library's criteria never look at, between two others."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for convolution in (nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 32, 1)):
        layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
    named = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    named.add_module("head", nn.Linear(32, 10))
    return named.eval()


@pytest.mark.parametrize(
    ("make", "ours", "theirs", "most", "strategy"),
    [
        (small_resnet, "magnitude-l2", lambda: tp.importance.GroupMagnitudeImportance(p=2), 0.9, "protected-global"),
        (small_resnet, "magnitude-l1", lambda: tp.importance.GroupMagnitudeImportance(p=1), 1.0, "global"),
        (small_resnet, "lamp", lambda: tp.importance.LAMPImportance(), 0.9, "protected-global"),
        (small_resnet, "bn-scale", lambda: tp.importance.BNScaleImportance(), 0.9, "protected-global"),
        (small_resnet, "magnitude-l2", lambda: tp.importance.GroupMagnitudeImportance(p=2), 1.0, "local"),
        (small_vit, "magnitude-l2", lambda: tp.importance.GroupMagnitudeImportance(p=2), 0.9, "protected-global"),
        (separable, "magnitude-l1", lambda: tp.importance.GroupMagnitudeImportance(p=1), 0.9, "protected-global"),
    ],
)
def test_pruningbench_is_the_librarys_loop_channel_for_channel(make, ours, theirs, most, strategy) -> None:
    model, targets = make(), [1.5, 3.0]
    head = "fc" if hasattr(model, "fc") else "head"
    criterion = registry.importance.load(ours)()
    groups, cuts = cuts_of(model, targets, criterion, protocol="pruningbench", strategy=strategy, steps=40)
    victim = copy.deepcopy(model)
    stops = run(
        victim, IMAGE, theirs(), targets, ignored=[victim.get_submodule(head)], steps=40, most=most,
        global_pruning=strategy != "local",
    )  # fmt: skip
    check_agreement(stops, cuts, groups)


PICTURES = Calibration(torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(6), 4)


def backward(model: nn.Module, images: slice = slice(None)) -> None:
    """Leave the gradients of the mean loss over `images` in `model`, as the library's scripts do."""
    model.zero_grad()
    F.cross_entropy(model(PICTURES.images[images]), PICTURES.labels[images]).backward()


def taylor_products(model: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    """w g; the sum of absolute values is `taylor`."""
    backward(model)
    return {p: p.detach() * p.grad for p in model.parameters() if p.grad is not None}


def fisher_products(model: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    """w sqrt(E g^2), one image at a time; the sum of squares is `obd-hessian`."""
    squares: dict[nn.Parameter, torch.Tensor] = {}
    for i in range(6):
        backward(model, slice(i, i + 1))
        for p in model.parameters():
            if p.grad is not None:
                squares[p] = squares.get(p, 0) + p.grad.square() / 6
    return {p: p.detach() * square.sqrt() for p, square in squares.items()}


class Loudness(Importance):
    """Mean absolute output of a batch norm's channel: what is scored are activations."""

    needs = "activations"

    def observe(self, layer: Layer, inputs: torch.Tensor, output: torch.Tensor, state):
        return output.abs().sum((0, 2, 3)) + (0 if state is None else state)

    def watched(self, group):
        return tuple(m for m in group.members if m.kind == "norm")

    def layer_scores(self, layer: Layer) -> torch.Tensor | None:
        return layer.state


def loudness(model: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    found, handles = {}, []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            note = lambda m, _, output: found.update({m.weight: output.detach().abs().sum((0, 2, 3))})  # noqa: E731
            handles.append(module.register_forward_hook(note))
    model(PICTURES.images)
    for handle in handles:
        handle.remove()
    return found


def without_norms() -> nn.Module:
    """A residual network whose library score of `taylor` misses nothing: its branch for batch norms is never taken."""
    torch.manual_seed(0)
    block = timm.models.resnet.BasicBlock
    return timm.models.resnet.ResNet(
        block, (1, 1, 1, 1), 10, channels=(8, 16, 24, 32), stem_width=8, norm_layer=nn.Identity, zero_init_last=False
    ).eval()  # fmt: skip


def vgg() -> nn.Module:
    """Convolutions without norms, a depthwise one among them, and a hidden linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(
        a=nn.Conv2d(3, 16, 3, padding=1), b=nn.ReLU(), c=nn.Conv2d(16, 16, 3, padding=1, groups=16), d=nn.ReLU(),
        e=nn.Conv2d(16, 32, 3, padding=1), f=nn.ReLU(), g=nn.AdaptiveAvgPool2d(2), h=nn.Flatten(),
        i=nn.Linear(128, 48), j=nn.ReLU(), head=nn.Linear(48, 10),
    )).eval()  # fmt: skip


@pytest.fixture
def one_thread():
    """Hundreds of tiny passes: several threads would wait for one another, for minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("make", "ours", "theirs"),
    [
        (without_norms, TAYLOR, tp.importance.GroupTaylorImportance()),
        (vgg, TAYLOR, tp.importance.TaylorImportance()),
        (small_resnet, TAYLOR, Weighed(L1_OF, taylor_products)),
        (separable, TAYLOR, Weighed(L1_OF, taylor_products)),
        (small_vit, TAYLOR, Weighed(L1_OF, taylor_products)),
        (separable, HESSIAN, Weighed(L2_OF, fisher_products)),
        (small_resnet, Loudness(), Weighed(tp.importance.BNScaleImportance(), loudness)),
    ],
)
def test_pruningbench_gathers_before_every_step_as_the_librarys_loop_does(make, ours, theirs) -> None:
    model, targets = make(), [1.5, 3.0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups, cuts = cuts_of(model, targets, ours, PICTURES, protocol="pruningbench", steps=16)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    victim = copy.deepcopy(model)
    head = victim.get_submodule("fc" if hasattr(model, "fc") else "head")
    gather = theirs.gather if isinstance(theirs, Weighed) else backward
    stops = list(run(victim, IMAGE, theirs, targets, ignored=[head], steps=16, before_step=gather))
    assert [stop.target for stop in stops] == targets
    check_agreement(stops, cuts, groups)


@pytest.mark.usefixtures("one_thread")
def test_pruningbench_gathers_once_for_each_network_that_it_meets(monkeypatch) -> None:
    """Not in the steps that remove nothing, not past the last target, and once for all targets."""
    gathers = []
    monkeypatch.setattr(scorer, "gather", lambda *args: gathers.append(None) or gather(*args))
    how = {"protocol": "pruningbench", "steps": 200, "criterion": TAYLOR, "calibration": PICTURES}
    together = cuts_of(separable(), [1.5, 3.0], **how)[1]
    both = len(gathers)
    alone = cuts_of(separable(), [3.0], **how)[1]
    assert alone[3.0] == together[3.0]
    assert len(gathers) == 2 * both
    gone = 24 + 32 - sum(map(len, alone[3.0].kept.values()))
    assert both <= gone < alone[3.0].steps  # one unit or more between two gathers


def test_one_step_at_a_ratio_is_the_librarys_too() -> None:
    model = small_resnet()
    groups = trace(model, IMAGE)
    cut = select_ratio(Scoring(L2, model), IMAGE, groups, 0.3, strategy="local")
    victim = copy.deepcopy(model)
    tp.pruner.BasePruner(
        victim, IMAGE, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.3, ignored_layers=[victim.fc],
        in_channel_groups={}, out_channel_groups={}, num_heads={},
    ).step()  # fmt: skip
    slim = copy.deepcopy(model)
    surgery.apply(slim, groups, cut.kept)
    assert {k: v.shape for k, v in slim.state_dict().items()} == {k: v.shape for k, v in victim.state_dict().items()}
    assert all(torch.equal(v, victim.state_dict()[k]) for k, v in slim.state_dict().items())
