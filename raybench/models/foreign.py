"""Calls code of others that builds a network: what it raises becomes one sentence, what it prints isn't output."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from torch import nn

from raybench.errors import RaybenchError, UserError, said
from raybench.groups.first_run import check_ready
from raybench.sweep.environment import number_variables

DOWNLOADS = {"weights_backbone": None}  # torchvision's arguments whose defaults are weights to download


class ForeignError(UserError):
    """Code of others failed. A sweep's other networks are none the worse for it."""


@contextmanager
def explained(what: str, hint: str = "") -> Iterator[None]:
    """Inside, an error of others' code, or its exit, becomes the ForeignError ``what: its error (file:line)hint``.

    What the code prints goes to standard error: a command's standard output is for its results. Variables that change
    numbers are put back: ultralytics' ``YOLO(...)`` sets one, and later cells would compute with it.
    """
    before = number_variables("cuda")
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (RaybenchError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit and GeneratorExit, too
        raise ForeignError(f"{what}: {said(error)}{hint}") from error
    finally:
        for name in number_variables("cuda").keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def taken(make: Callable[..., Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `shape` that a function takes by name, and None for weights that it would download.

    ``def net():`` is one network for one dataset. Whether its outputs are the data's classes is checked before a run,
    as for every network.
    """
    parameters = _parameters(make)
    named = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    absent = {name: value for name, value in DOWNLOADS.items() if name in named}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(shape) | absent
    return {name: value for name, value in shape.items() if name in named} | absent


def _parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(make).parameters.values())
    except (ValueError, TypeError):  # compiled code without a signature
        return []


def check_arguments(name: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """UserError unless `make` can be called with `arguments`."""
    if isinstance(make, nn.Module):
        raise UserError(
            f"model {name!r} is a network ({type(make).__name__}); expected a function or class that builds one: "
            "`def net(num_classes): return ...`"
        )
    try:
        signature = inspect.signature(make)
    except (ValueError, TypeError):  # it has none, so it says for itself what it takes
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"model {name!r}: {error}; it is called with those of num_classes, in_channels and image_size that it "
            "takes, and with the sweep's params"
        ) from error


def called(name: str, make: Callable[..., Any], shape: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """What `make` returns for the data's `shape` and the model's `params`.

    A function with ``**kwargs`` may pass them on to one that takes fewer: what that doesn't know is left out.

    Raises:
        ForeignError: it fails; says with which arguments it was called.
    """
    arguments = {**shape, **params}
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    hint = f". It was called with {given or 'no arguments'}"
    with explained(f"model {name!r} can't be built", hint):
        while True:
            try:
                return make(**arguments)
            except TypeError as error:
                unknown = [key for key in shape if key in arguments and f"keyword argument '{key}'" in str(error)]
                if not unknown or "multiple values" in str(error):
                    raise
                del arguments[unknown[0]]


def check_network(name: str, found: Any) -> None:
    """UserError unless `found`, which a function returned, is a network whose weights have values."""
    if isinstance(found, nn.Module):
        check_ready(found)
        return
    inner = list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, tuple | list) else []
    hint = "; return the network alone" if any(isinstance(one, nn.Module) for one in inner) else ""
    if isinstance(found, type) and issubclass(found, nn.Module):
        hint = f"; return an object of it: {found.__name__}()"
    kind = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
    kind = "None" if found is None else kind
    raise UserError(f"model {name!r} returned {kind}; expected a torch.nn.Module{hint}")
