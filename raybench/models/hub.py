"""Pretrained weights from torchvision and timm: `torchvision:NAME@WEIGHTS` and `timm:NAME.TAG`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from raybench.datasets.statistics import View
from raybench.errors import UserError
from raybench.models.fill import LoadReport, fill
from raybench.models.head import Head
from raybench.models.weight_names import match

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # file names of timm's weights on the Hugging Face hub
TIMEOUT_S = 5.0  # for the hub to answer


def load_pretrained(model: nn.Module, identity: str, head: Head | None = None, *, new_head: bool = False) -> LoadReport:
    """Fill `model` with the hub's weights `identity`, downloaded once into the library's cache.

    `head`, `new_head`: as in `fill`.
    UserError when they can't be downloaded (offline), don't exist, or are of another architecture or class count.
    """
    library, _, name = identity.partition(":")
    fetchers: dict[str, Callable[[str], Mapping[str, Tensor]]] = {"torchvision": _torchvision, "timm": _timm}
    if library not in fetchers:
        raise UserError(
            f"weights: pretrained: {identity!r} has no pretrained weights; "
            "expected timm:NAME or a registered model that has some"
        )
    try:
        state = fetchers[library](name)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, _transport_error()) as error:
        raise UserError(
            f"weights: pretrained: {identity} is not in this machine's cache and can't be fetched ({_cause(error)}). "
            "Without a network give a file, `weights: PATH` (safetensors or a state dict), or copy the cache folder of "
            "a machine that fetched it (HF_HOME for timm, TORCH_HOME for torchvision)"
        ) from error
    origin = f"pretrained {identity}"
    return fill(model, match(model.state_dict(), state, origin).state, origin, head, new_head=new_head)


def _transport_error() -> type[Exception]:
    """The Hugging Face client's connection error; its class depends on the client's version."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def view_of(identity: str) -> View | None:
    """Normalisation, resizing and crop that the hub's weights `identity` were trained for; None if unknown."""
    library, _, name = identity.partition(":")
    if library != "timm":
        return None  # torchvision's V1 weights use the datasets' own statistics
    import timm

    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # a tag that the architecture doesn't have; reported when the weights are loaded
        return None
    if config is None:
        return None
    return View(tuple(config.mean), tuple(config.std), config.crop_pct, config.interpolation)


def _torchvision(name: str) -> Mapping[str, Tensor]:
    import torchvision

    architecture, _, wanted = name.partition("@")
    weights = torchvision.models.get_model_weights(architecture)[wanted]
    if not _in_torch_cache(weights.url):
        _reach(weights.url)
    return weights.get_state_dict(progress=False, check_hash=True)


def _timm(name: str) -> Mapping[str, Tensor]:
    import timm

    if not timm.is_model_pretrained(name):
        raise UserError(f"weights: pretrained: timm has no pretrained weights {name!r}")
    config = timm.get_pretrained_cfg(name)
    assert config is not None  # is_model_pretrained found it
    found = _in_hub_cache(config.hf_hub_id, config.hf_hub_filename) if config.hf_hub_id else None
    if found:  # timm would first request a newer one from the network, with a long timeout
        overlay = {"file": found, "custom_load": False}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    if config.hf_hub_id:
        from huggingface_hub import constants

        _reach(constants.ENDPOINT)
    elif isinstance(config.url, str) and not _in_torch_cache(config.url):
        _reach(config.url)
    return timm.create_model(name, pretrained=True).state_dict()


def _in_hub_cache(repository: str, filename: str | None) -> str | None:
    """Path of `repository`'s weights in this machine's Hugging Face cache, None if they aren't there."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    for name in [filename] if filename else HUB_FILES:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return found
    return None


def _in_torch_cache(url: str) -> bool:
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2]).is_file()


def _reach(url: str) -> None:
    """URLError within seconds if no server answers at `url`, where the libraries would retry for minutes."""
    with suppress(HTTPError):
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_S).close()


def _cause(error: BaseException) -> str:
    """Type and first line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
