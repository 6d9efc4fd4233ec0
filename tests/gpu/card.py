"""The lines of the check that need torch alone: what card this is, and how fast its products are."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.benchmarks.products import PRECISIONS, product_rate

Line = tuple[str, bool, str]  # (what, whether it is as expected, figures)


def card(device: torch.device, quick: bool) -> Iterator[Line]:
    """The device and its libraries."""
    if device.type != "cuda":
        yield "device", True, f"a CPU; torch {torch.__version__}"
        return
    name = torch.cuda.get_device_name(device)
    free, total = torch.cuda.mem_get_info(device)
    libraries = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    memory = f"{free >> 20} of {total >> 20} MiB free"
    yield "device", True, f"{name}, capability {capability}, {memory}; {libraries}"


def products(device: torch.device, quick: bool) -> Iterator[Line]:
    """The rate of one large product in each precision, which shares of the peak refer to."""
    for precision in PRECISIONS if device.type == "cuda" else ("fp32",):
        rate = product_rate(device, precision)
        yield f"product in {precision}", rate > 0, f"{rate / 1e12:.3g} TFLOP/s"
