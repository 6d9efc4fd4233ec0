"""Gathering evidence: nothing of the model changes, and what can't be trusted is an error that names its place."""

import dataclasses

import pytest
import torch
from torch import nn

from raybench.errors import NotSupported, StageError, UserError
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration, Importance
from raybench.scoring.gather import gather
from tests.oracles import nets
from tests.unit.scoring_cases import Squares


@dataclasses.dataclass(frozen=True)
class Gradients(Importance):
    needs = "gradients"


@dataclasses.dataclass(frozen=True)
class Sampled(Importance):
    needs = "sample-gradients"
    labels = "sampled"


@dataclasses.dataclass(frozen=True)
class Counting(Importance):
    needs = "activations"
    min_images = 4

    def observe(self, layer, inputs, output, state):
        return (state or 0) + len(inputs)


CRITERIA = [Gradients(), Squares(), Sampled(), Counting()]


def calibration(n=6, batch_size=4, **kwargs):
    return Calibration(*nets.images(n), batch_size, **kwargs)


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("name", nets.NETS)
def test_the_model_is_as_before(criterion, name):
    net, groups = nets.build(name)
    net.train()
    frozen = next(m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    frozen.eval()
    frozen.weight.requires_grad_(False)
    net.register_buffer("kept", torch.ones(1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    flags = [m.training for m in net.modules()]
    needs_grad = [p.requires_grad for p in net.parameters()]
    marker = torch.full_like(list(net.parameters())[-1], 7.0)
    list(net.parameters())[-1].grad = marker.clone()
    hooks = sum(len(m._forward_hooks) for m in net.modules())

    gather(criterion, net, groups, calibration())

    assert [m.training for m in net.modules()] == flags
    assert [p.requires_grad for p in net.parameters()] == needs_grad
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(list(net.parameters())[-1].grad, marker)
    assert all(p.grad is None for p in list(net.parameters())[:-1])
    assert sum(len(m._forward_hooks) for m in net.modules()) == hooks


def test_every_layer_and_side_sees_every_image_once():
    net, groups = nets.build("residual")
    states = gather(Counting(), net, groups, calibration(n=6)).states
    assert states == {(m.layer, m.side): 6 for g in groups for m in g.members}


def test_gradients_of_unequal_batches_are_those_of_the_mean_loss():
    net, groups = nets.build("plain")
    whole = gather(Gradients(), net, groups, calibration(n=6, batch_size=6)).gradients
    parts = gather(Gradients(), net, groups, calibration(n=6, batch_size=4)).gradients
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-7)


def test_sampled_labels_depend_on_the_generator_alone():
    net, groups = nets.build("plain")
    generator = torch.Generator().manual_seed(5)
    first = gather(Sampled(), net, groups, calibration(generator=generator)).gradient_squares
    torch.rand(9)  # the global state is nobody's business
    again = gather(Sampled(), net, groups, calibration(generator=generator)).gradient_squares
    other = gather(Sampled(), net, groups, calibration(generator=torch.Generator().manual_seed(6))).gradient_squares
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_sampled_labels_need_class_scores():
    net, groups = nets.build("plain")
    net.fc.register_forward_hook(lambda m, i, o: o.unsqueeze(-1))
    with pytest.raises(NotSupported, match="class scores"):
        gather(Sampled(), net, groups, calibration())


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
def test_nan_activations_name_the_layer(criterion):
    net, groups = nets.build("residual")
    net.bn1.running_var[2] = float("nan")
    with pytest.raises(StageError, match="activations of layer 'bn1'"):
        gather(criterion, net, groups, calibration())
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("criterion", CRITERIA[:2], ids=lambda c: type(c).__name__)
def test_nan_gradients_name_the_layer(criterion):
    net, groups = nets.build("plain")

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    net.bn2.register_forward_pre_hook(lambda m, i: (Poison.apply(i[0]),))
    with pytest.raises(StageError, match="gradient of layer 'conv2'"):
        gather(criterion, net, groups, calibration())


def test_too_few_images_say_both_numbers():
    net, groups = nets.build("plain")
    with pytest.raises(UserError, match=r"at least 4 .* there are 3"):
        gather(Counting(), net, groups, calibration(n=3))
    with pytest.raises(UserError, match="no calibration images"):
        gather(Counting(), net, groups, None)


@pytest.mark.parametrize("criterion", [Gradients(), Squares()], ids=lambda c: type(c).__name__)
def test_norms_without_a_weight_have_no_gradients(criterion):
    classifier = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), *classifier)
    images, labels = torch.randn(5, 3, 6, 6), torch.tensor([0, 1, 0, 1, 1])
    found = gather(criterion, net, trace(net, images), Calibration(images, labels, batch_size=2))
    assert set(found.gradients or found.gradient_squares) == {"0.weight", "4.weight"}


def test_a_sum_that_overflows_is_of_finite_values_and_one_broken_value_is_found():
    from raybench.scoring.evidence import finite

    large = torch.full((4,), 3e38)
    assert finite(large)
    assert finite(torch.tensor([1, 2]))
    for broken in (float("nan"), float("inf"), -float("inf")):
        assert not finite(torch.tensor([1.0, broken]))
    assert not finite(torch.tensor([float("inf"), -float("inf")]))
