"""torch-pruning's defects beside ours: each test holds both sides, so that it says when the library is repaired."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

from raybench import registry
from raybench.methods.protocols import Calibration
from raybench.methods.regularizers.group_norm import shrinkage
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer
from tests.oracles import formulas, nets


def library_group(net, layer):
    """torch-pruning's own group rooted at `layer`'s filters."""
    graph = tp.DependencyGraph().build_dependency(net, torch.randn(2, 3, 8, 8))
    return graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))


def ours(name, net, images, labels):
    criterion = registry.importance.load(name)()
    groups = net.groups()
    evidence = gather(criterion, net, groups, Calibration(images, labels, 4))
    return Scorer(criterion, net, groups, evidence).scores()[0]


def expected(name, net, images, labels):
    return formulas.unit_scores(name, net, net.groups(), images, labels, 4)[0]


def scaled(scores):
    scores = scores.detach().double().numpy()
    return scores / scores.mean()


def test_obd_hessian_of_the_library_sees_the_last_sample_only():
    net, _ = nets.build("plain")
    net.eval()
    images, labels = nets.images(6)

    def library(images, labels):
        criterion = tp.importance.GroupHessianImportance()
        group = library_group(net, net.conv1)
        criterion.zero_grad()
        for image, label in zip(images, labels, strict=True):
            net.zero_grad()
            F.cross_entropy(net(image[None]), label[None]).backward(retain_graph=True)
            criterion.accumulate_grad(net)
        return scaled(criterion(group))

    whole = library(images, labels)
    np.testing.assert_allclose(whole, library(images[-1:], labels[-1:]), rtol=1e-5)  # the defect
    found = ours("obd-hessian", net, images, labels)
    np.testing.assert_allclose(found, expected("obd-hessian", net, images, labels), rtol=1e-4)
    assert np.abs(found - whole).max() > 0.05


def test_taylor_of_the_library_never_sees_batch_norm_gradients():
    net, _ = nets.build("plain")
    net.eval()
    images, labels = nets.images(6)
    F.cross_entropy(net(images), labels).backward()
    group = library_group(net, net.conv1)
    before = scaled(tp.importance.GroupTaylorImportance()(group))
    net.bn1.weight.grad *= 1000
    np.testing.assert_array_equal(scaled(tp.importance.GroupTaylorImportance()(group)), before)  # the defect
    found = ours("taylor", net, images, labels)
    np.testing.assert_allclose(found, expected("taylor", net, images, labels), rtol=1e-4)
    assert np.abs(found - before).max() > 0.01


def test_fpgm_of_the_library_measures_between_squared_weights():
    net, groups = nets.build("plain")
    weight = net.conv1.weight.detach().flatten(1)
    library = scaled(tp.importance.FPGMImportance()(library_group(net, net.conv1)))
    found = Scorer(registry.importance.load("fpgm")(), net, groups, None).scores()[0]
    np.testing.assert_allclose(found, scaled(torch.cdist(weight, weight).sum(1)), rtol=1e-5)
    assert np.abs(library - found).max() > 0.01  # the defect


def test_group_norm_of_the_library_divides_by_zero_and_ignores_alpha():
    equal = torch.full((4,), 2.0)
    library = 16.0 ** ((equal.max() - equal) / (equal.max() - equal.min()))  # its formula, GroupNormPruner.regularize
    assert library.isnan().all()
    assert torch.equal(shrinkage(equal, alpha=4), torch.ones(4))
    strengths = torch.tensor([1.0, 2.0, 3.0])
    assert shrinkage(strengths, alpha=4).tolist() == [16, 4, 1]
    assert shrinkage(strengths, alpha=1).tolist() == pytest.approx([2, 2**0.5, 1])
    net, _ = nets.build("plain")

    def weakest_pull(alpha):
        pruner = tp.pruner.GroupNormPruner(
            net, torch.randn(2, 3, 8, 8), tp.importance.GroupMagnitudeImportance(), reg=1.0, alpha=alpha,
            ignored_layers=[net.fc], num_heads={}, in_channel_groups={}, out_channel_groups={}, channel_groups={},
        )  # fmt: skip
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        pruner.regularize(net)
        return (net.conv1.weight.grad / net.conv1.weight).abs().max().item()

    assert weakest_pull(4) == pytest.approx(weakest_pull(1), rel=1e-4)  # the defect: 16 either way


def test_equal_bn_scales_are_ties_broken_by_index_not_an_empty_step():
    net, groups = nets.build("plain")
    for norm in (net.bn1, net.bn2):
        nn.init.ones_(norm.weight)
    pruner = tp.pruner.BNScalePruner(
        net, torch.randn(2, 3, 8, 8), tp.importance.BNScaleImportance(), pruning_ratio=0.5, global_pruning=True,
        ignored_layers=[net.fc], num_heads={}, in_channel_groups={}, out_channel_groups={}, channel_groups={},
    )  # fmt: skip
    pruner.step()
    assert (net.conv1.out_channels, net.conv2.out_channels) == (5, 6)  # the defect: nothing pruned, nothing said
    ranked = Scorer(registry.importance.load("bn-scale")(), net, groups, None).rank()
    assert [list(order) for order in ranked] == [list(range(5)), list(range(6))]
