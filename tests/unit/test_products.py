"""TF32 or exact products, whichever of torch's switches a plug-in has used. The switches exist without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from raybench.execution.torch_settings import Settings
from raybench.tasks.training.computing import Computing, exact, kernels
from raybench.tasks.training.products import products

CUDA, CUDNN, MATMUL = torch.device("cuda"), torch.backends.cudnn, torch.backends.cuda.matmul
BACKENDS: Any = torch.backends


def put(holder: Any, value: Any, name: str = "fp32_precision") -> Callable[[], None]:
    return lambda: setattr(holder, name, value)


PLUGINS = {  # what a plug-in did
    "nothing": lambda: None,
    "matmul tf32": put(MATMUL, "tf32"),
    "matmul ieee": put(MATMUL, "ieee"),
    "all tf32": put(BACKENDS, "tf32"),
    "all ieee": put(BACKENDS, "ieee"),
    "of CUDA tf32": put(CUDNN, "tf32"),
    "convolutions ieee": put(CUDNN.conv, "ieee"),
    "RNNs like all": put(CUDNN.rnn, "none"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "old matmul": put(MATMUL, True, "allow_tf32"),
    "old convolutions": put(CUDNN, False, "allow_tf32"),
}  # fmt: skip


NEW = tuple(
    lambda of=of: of.fp32_precision for of in (BACKENDS, CUDNN, MATMUL, CUDNN.conv, CUDNN.rnn, BACKENDS.mkldnn.matmul)
)


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = Settings.now()
    yield
    before.restore()
    assert [one[:2] for one in Settings.now().values] == [one[:2] for one in before.values]


def said(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:
        return "refused"


def switches() -> list[Any]:
    """Every switch, and what the narrow ones say where the wider ones change: whether they follow those."""
    read = (
        lambda: MATMUL.allow_tf32, lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision,
        *NEW,
    )  # fmt: skip
    found = [said(one) for one in read]
    for wider in (BACKENDS, *([CUDNN] if BACKENDS.fp32_precision == "none" else [])):
        before = wider.fp32_precision  # its own
        for value in ("ieee", "tf32"):
            wider.fp32_precision = value
            found += [said(one) for one in read]
        wider.fp32_precision = before
    return found


def computed() -> tuple[Any, ...]:
    """What kernels go by, and what the old switches say."""
    new = MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision
    return *new, MATMUL.allow_tf32, CUDNN.allow_tf32


@pytest.mark.parametrize("second", ["nothing", "matmul tf32", "old matmul", "old convolutions"])
@pytest.mark.parametrize("first", PLUGINS)
def test_products_are_what_is_asked_and_every_switch_is_put_back(first: str, second: str) -> None:
    PLUGINS[first]()
    PLUGINS[second]()
    plain = [read() for read in NEW]
    with products("fp32"):
        pass
    assert [read() for read in NEW] == plain
    before = switches()
    with kernels(CUDA, Computing("tf32")):
        assert computed() == ("tf32", "tf32", "tf32", True, True)
        with exact(CUDA):
            assert computed() == ("ieee", "ieee", "ieee", False, False)
        assert computed() == ("tf32", "tf32", "tf32", True, True)
    assert switches() == before
    with pytest.raises(KeyError), products("fp32"):
        {}[computed()]
    with products(""):
        assert switches() == before
    assert switches() == before
