"""timm's networks: ViT, DeiT, Swin, ConvNeXt, EfficientNet, RegNet, and any other as `timm:NAME`."""

from __future__ import annotations

from typing import Any

from torch import nn

from raybench.errors import UserError, nearest
from raybench.image_size import Side, sides, written
from raybench.registry import model
from raybench.sweep.timm_parameters import unknown_to_timm

# `pretrained` names timm's weights for ImageNet-1k; `weights: pretrained` downloads them.


@model("vit-tiny", args={"timm_name": "vit_tiny_patch16_224"}, family="vit", norm="layer", attention=True,
       task="classification", pretrained="timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")  # fmt: skip
@model("vit-small", args={"timm_name": "vit_small_patch16_224"}, family="vit", norm="layer", attention=True,
       task="classification", pretrained="timm:vit_small_patch16_224.augreg_in1k")  # fmt: skip
@model("vit-base", args={"timm_name": "vit_base_patch16_224"}, family="vit", norm="layer", attention=True,
       task="classification", pretrained="timm:vit_base_patch16_224.augreg_in1k")  # fmt: skip
@model("deit-tiny", args={"timm_name": "deit_tiny_patch16_224"}, family="deit", norm="layer", attention=True,
       task="classification", pretrained="timm:deit_tiny_patch16_224.fb_in1k")  # fmt: skip
@model("deit-small", args={"timm_name": "deit_small_patch16_224"}, family="deit", norm="layer", attention=True,
       task="classification", pretrained="timm:deit_small_patch16_224.fb_in1k")  # fmt: skip
@model("deit-base", args={"timm_name": "deit_base_patch16_224"}, family="deit", norm="layer", attention=True,
       task="classification", pretrained="timm:deit_base_patch16_224.fb_in1k")  # fmt: skip
@model("swin-tiny", args={"timm_name": "swin_tiny_patch4_window7_224"}, norm="layer", attention=True,
       task="classification", pretrained="timm:swin_tiny_patch4_window7_224.ms_in1k")  # fmt: skip
@model("convnext-tiny", args={"timm_name": "convnext_tiny"}, norm="layer", attention=False, task="classification",
       pretrained="timm:convnext_tiny.fb_in1k")  # fmt: skip
@model("efficientnet-b0", args={"timm_name": "efficientnet_b0"}, norm="batch", attention=False, task="classification",
       pretrained="timm:efficientnet_b0.ra_in1k")  # fmt: skip
@model("regnetx-004", args={"timm_name": "regnetx_004"}, norm="batch", attention=False, task="classification",
       pretrained="timm:regnetx_004.pycls_in1k")  # fmt: skip
@model("regnety-004", args={"timm_name": "regnety_004"}, norm="batch", attention=False, task="classification",
       pretrained="timm:regnety_004.pycls_in1k")  # fmt: skip
def from_timm(num_classes: int, in_channels: int, image_size: Side, *, timm_name: str) -> nn.Module:
    """A registered timm network; transformers are built for the data's image size."""
    return any_timm(num_classes, in_channels, image_size, timm_name=timm_name)


def any_timm(num_classes: int, in_channels: int, image_size: Side, *, timm_name: str, **params: Any) -> nn.Module:
    """The network that timm calls `timm_name`, with timm's own `params`; UserError when timm can't build it."""
    import timm

    if not timm.is_model(timm_name):
        raise UserError(f"timm has no model {timm_name!r}.{nearest(timm_name, timm.list_models())}")
    shape: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    config = timm.get_pretrained_cfg(timm_name)
    if config is not None and config.fixed_input_size:
        shape["img_size"] = image_size
    try:
        net = timm.create_model(timm_name, pretrained=False, **shape, **params)
        _check_patches(net, image_size)
        return net
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        for one in params:
            if f"unexpected keyword argument '{one}'" in str(error):
                raise UserError(f"{one}: {unknown_to_timm(timm_name, one)}") from error
        arguments = ", ".join(f"{key}={value}" for key, value in (shape | params).items())
        raise UserError(f"timm can't build {timm_name} with {arguments}: {error}") from error


def _check_patches(net: nn.Module, image_size: Side) -> None:
    """ValueError if the image isn't a whole number of patches wide: timm would silently drop the remaining pixels."""
    first = getattr(net, "patch_embed", None) or getattr(net, "stem", None)  # mixers call it stem
    patch = getattr(first, "patch_size", None)
    patches = patch if isinstance(patch, tuple) else (patch, patch)
    if any(size and side % size for side, size in zip(sides(image_size), patches, strict=True)):
        shown = patch[0] if isinstance(patch, tuple) else patch
        found = f"an image of {written(image_size)} pixels"
        raise ValueError(f"{found} is not a whole number of patches of {shown} pixels")
