"""ImageNet's convolutional networks from torchvision, whose weights the paper starts from."""

from __future__ import annotations

import torchvision
from torch import nn

from raybench.errors import UserError
from raybench.image_size import Side, sides, written
from raybench.registry import model


@model("resnet18", args={"name": "resnet18"}, family="resnet", norm="batch", attention=False,
       task="classification", pretrained="torchvision:resnet18@IMAGENET1K_V1")  # fmt: skip
@model("resnet34", args={"name": "resnet34"}, family="resnet", norm="batch", attention=False,
       task="classification", pretrained="torchvision:resnet34@IMAGENET1K_V1")  # fmt: skip
@model("resnet50", args={"name": "resnet50"}, family="resnet", norm="batch", attention=False,
       task="classification", pretrained="torchvision:resnet50@IMAGENET1K_V1")  # fmt: skip
@model("vgg16-bn", args={"name": "vgg16_bn"}, family="vgg", norm="batch", attention=False,
       task="classification", pretrained="torchvision:vgg16_bn@IMAGENET1K_V1")  # fmt: skip
@model("vgg19-bn", args={"name": "vgg19_bn"}, family="vgg", norm="batch", attention=False,
       task="classification", pretrained="torchvision:vgg19_bn@IMAGENET1K_V1")  # fmt: skip
@model("mobilenet-v2", args={"name": "mobilenet_v2"}, norm="batch", attention=False, task="classification",
       pretrained="torchvision:mobilenet_v2@IMAGENET1K_V1")  # fmt: skip
@model("mobilenet-v3-small", args={"name": "mobilenet_v3_small"}, family="mobilenet-v3", norm="batch", attention=False,
       task="classification", pretrained="torchvision:mobilenet_v3_small@IMAGENET1K_V1")  # fmt: skip
@model("mobilenet-v3-large", args={"name": "mobilenet_v3_large"}, family="mobilenet-v3", norm="batch", attention=False,
       task="classification", pretrained="torchvision:mobilenet_v3_large@IMAGENET1K_V1")  # fmt: skip
@model("densenet121", args={"name": "densenet121"}, norm="batch", attention=False, task="classification",
       pretrained="torchvision:densenet121@IMAGENET1K_V1")  # fmt: skip
def from_torchvision(num_classes: int, in_channels: int, image_size: Side, *, name: str) -> nn.Module:
    """A torchvision network; its first convolution is replaced if images don't have 3 channels."""
    if min(sides(image_size)) < 32:
        found = written(image_size)
        raise UserError(f"{name} halves its images five times; found {found} pixels, expected at least 32")
    net = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    if in_channels != 3:
        _replace_stem(net, in_channels)
    return net


def _replace_stem(net: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one with `in_channels` inputs and otherwise the same settings."""
    name, old = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # torch declares tuple[int, ...]; a Conv2d has two
        old.stride,  # type: ignore[arg-type]  # as above
        old.padding,  # type: ignore[arg-type]  # as above
        bias=old.bias is not None,
    )
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, new)
