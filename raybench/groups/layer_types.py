"""torch's layer classes as tuples for `isinstance`: convolutions, transposed convolutions, norms."""

from torch import nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)


def is_layer(module: nn.Module) -> bool:
    """Whether surgery knows `module` as a layer that it can cut."""
    return isinstance(module, (*CONVOLUTIONS, nn.Linear)) or is_norm(module)


def is_norm(module: nn.Module) -> bool:
    """Whether surgery can cut `module` as a norm: torch's own, RMS norms, and frozen batch norms, by their shape."""
    shape = getattr(module, "normalized_shape", None)
    return isinstance(module, NORMS) or is_frozen(module) or (isinstance(shape, (tuple, list)) and len(shape) == 1)


def is_frozen(module: nn.Module) -> bool:
    """Whether `module` is a batch norm whose weights are buffers."""
    names = {"weight", "bias", "running_mean", "running_var"}
    return "BatchNorm" in type(module).__name__ and not module._parameters and names <= set(module._buffers)
