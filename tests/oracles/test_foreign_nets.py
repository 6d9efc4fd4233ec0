"""Thirteen networks of timm and torchvision: the protocol `pruningbench` beside torch-pruning's own loop."""

import copy
from functools import partial

import pytest
import timm
import torch
import torch_pruning as tp
import torchvision
from torch import nn

from raybench import registry
from raybench.groups.trace import trace
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from tests.library_loop import check_agreement, run

TARGETS, STEPS = [1.5, 2.5], 8
TV, TIMM = torchvision.models, partial(timm.create_model, num_classes=10)
NETS = {  # network, its classifier, pixels
    "resnet18": (partial(TV.resnet18, num_classes=10), "fc", 32),
    "resnet10t": (partial(TIMM, "resnet10t"), "fc", 32),
    "squeezenet": (partial(TV.squeezenet1_1, num_classes=10), "classifier.1", 64),
    "googlenet": (partial(TV.googlenet, num_classes=10, aux_logits=False, init_weights=False), "fc", 32),
    "densenet": (partial(TIMM, "densenet121", growth_rate=8, block_config=(2, 2, 2, 2)), "classifier", 32),
    "mobilenet-v2": (partial(TIMM, "mobilenetv2_035"), "classifier", 32),
    "mobilenet-v3": (partial(TIMM, "mobilenetv3_small_050"), "classifier", 32),
    "mnasnet": (partial(TIMM, "mnasnet_050"), "classifier", 32),
    "convnext": (partial(TIMM, "convnext_atto"), "head.fc", 32),
    "vovnet": (partial(TIMM, "ese_vovnet19b_slim"), "head.fc", 32),
    "darknet": (partial(TIMM, "darknet17"), "head.fc", 32),
    "vit": (partial(TIMM, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3), "head", 32),
    "deit": (partial(TIMM, "deit_tiny_patch16_224", img_size=32, patch_size=8, depth=2), "head", 32),
}


@pytest.mark.parametrize("name", NETS)
def test_a_foreign_net_is_cut_as_the_librarys_loop_cuts_it(name) -> None:
    make, head, pixels = NETS[name]
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # equal scales would be ties
    image = torch.randn(1, 3, pixels, pixels)
    groups = trace(model, image)
    criterion = registry.importance.load("magnitude-l2")()
    cuts = select(Scoring(criterion, model, None), image, groups, TARGETS, protocol="pruningbench", steps=STEPS)
    victim = copy.deepcopy(model)
    theirs = tp.importance.GroupMagnitudeImportance(p=2)
    stops = list(run(victim, image, theirs, TARGETS, ignored=[victim.get_submodule(head)], steps=STEPS))
    assert [stop.target for stop in stops] == TARGETS
    check_agreement(stops, cuts, groups)
