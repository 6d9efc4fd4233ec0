"""Builds a network by name for a dataset's channels, image size and classes."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError, nearest
from raybench.sweep.modules import find_module, not_found, own_module, reach_current_folder


def build_model(name: str, data: DataFacts, params: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network `name`, in train mode, for `data`'s channels, image size and classes.

    `name` is a registered model, ``timm:NAME`` or ``module:function``. Initial weights come from torch's global
    generator, which the caller seeds. UserError for an unknown name, or parameters that the model doesn't take.
    """
    make, params = _maker(name), dict(params or {})
    shape = {"num_classes": data.classes, "in_channels": data.in_channels, "image_size": data.image_size}
    if own_module(name) is not None:
        shape = _taken(make, shape)
    _check_params(name, make, shape | params)
    model = make(**shape, **params)
    if type(model).__module__.startswith("ultralytics.") and isinstance(model, nn.Module):
        from raybench.models.ultralytics_adopt import adopted

        model = adopted(model, name)
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} returned {type(model).__name__}; expected a torch.nn.Module")
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # a frozen layer would silently be missing from the groups
    return model.train()


def _maker(name: str) -> Callable[..., nn.Module]:
    """The function that builds `name`, with the arguments of its registration bound."""
    scheme, colon, rest = name.partition(":")
    if scheme == "timm" and colon:
        from raybench.models.timm_nets import any_timm

        return functools.partial(any_timm, timm_name=rest)
    if colon:
        return _imported(scheme, rest)
    entry = registry.model.entry(name)
    return functools.partial(registry.model.load(name), **entry.facts.get("args", {}))


def _imported(module: str, function: str) -> Callable[..., nn.Module]:
    """``module:function`` of the user's own code, imported from the Python path or the current folder."""
    reach_current_folder()
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        why = f"can't import {module!r}: {error}" if find_module(module) else not_found(module)
        raise UserError(f"model {module}:{function}: {why}") from error
    make: Callable[..., nn.Module] | None = getattr(found, function, None)
    if not callable(make):
        names = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        where = getattr(found, "__file__", None) or module  # it may be another module of the same name
        raise UserError(f"model {module}:{function}: {where} has no function {function!r}.{nearest(function, names)}")
    return make


def _taken(make: Callable[..., nn.Module], shape: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `shape` that a user's function takes by name: ``def net():`` is one network for one dataset.

    Whether its outputs are the data's classes is checked before a run, as for every network.
    """
    parameters = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(shape)
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return {name: value for name, value in shape.items() if name in named}


def _check_params(name: str, make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
    """UserError unless `make` can be called with `arguments`."""
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"model {name!r}: {error}; it is called with those of num_classes, in_channels and image_size that it "
            "takes, and with the sweep's params"
        ) from error
