"""Pretrained weights from the libraries' own hubs: `torchvision:NAME@WEIGHTS` and `timm:NAME.TAG`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.error import URLError

from torch import Tensor, nn

from raybench.errors import UserError
from raybench.models.weights import LoadReport, fill


def load_pretrained(model: nn.Module, identity: str) -> LoadReport:
    """Fill `model` with the hub's weights called `identity`, fetched once into the library's cache.

    UserError when they can't be fetched (offline), don't exist, or are of another architecture or class count.
    """
    library, _, name = identity.partition(":")
    fetchers: dict[str, Callable[[str], Mapping[str, Tensor]]] = {"torchvision": _torchvision, "timm": _timm}
    if library not in fetchers:
        raise UserError(
            f"weights: pretrained: {identity!r} has none; expected timm:NAME or a registered model that has"
        )
    try:
        state = fetchers[library](name)
    except (URLError, OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"weights: pretrained: {identity} can't be fetched ({_cause(error)}). On a machine without a network "
            "give a file: `weights: PATH` (safetensors or a state dict), copied from one that has it"
        ) from error
    return fill(model, state, f"pretrained {identity}")


def _torchvision(name: str) -> Mapping[str, Tensor]:
    import torchvision

    architecture, _, weights = name.partition("@")
    return torchvision.models.get_model_weights(architecture)[weights].get_state_dict(progress=False, check_hash=True)


def _timm(name: str) -> Mapping[str, Tensor]:
    import timm

    if not timm.is_model_pretrained(name):
        raise UserError(f"weights: pretrained: timm has no pretrained weights {name!r}")
    return timm.create_model(name, pretrained=True).state_dict()


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: what really went wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
