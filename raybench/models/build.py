"""Builds a network by name for a dataset's channels, image size and classes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError, nearest
from raybench.models.foreign import called, check_arguments, check_network, explained, taken
from raybench.sweep.modules import find_module, not_found, own_module, reach_current_folder


def build_model(name: str, data: DataFacts, params: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network `name`, in train mode, for `data`'s channels, image size and classes.

    `name` is a registered model, ``timm:NAME`` or ``module:function``. Initial weights come from torch's global
    generator, which the caller seeds. UserError for an unknown name, parameters that the model doesn't take, and
    whatever code that isn't raybench's raises.
    """
    make, params = _maker(name), dict(params or {})
    shape = {"num_classes": data.classes, "in_channels": data.in_channels, "image_size": data.own.image_size}
    if own_module(name) is not None:
        shape = taken(make, shape)
    check_arguments(name, make, shape | params)
    model = called(name, make, shape, params)
    if type(model).__module__.startswith("ultralytics.") and isinstance(model, nn.Module):
        from raybench.models.ultralytics_adopt import adopted

        model = adopted(model, name)
    check_network(name, model)
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
    with explained(f"model {module}:{function}: importing {module!r} failed"):
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
