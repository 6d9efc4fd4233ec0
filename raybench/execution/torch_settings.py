"""Every global setting of torch and NumPy that changes numbers, read and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch

ATTRIBUTES = (  # settings that are attributes of an object; those that this torch doesn't have are left out
    ("backends.cudnn", ("enabled", "benchmark", "benchmark_limit", "deterministic", "allow_tf32", "fp32_precision")),
    ("backends.cudnn.conv", ("fp32_precision",)),
    ("backends.cudnn.rnn", ("fp32_precision",)),
    ("backends.cuda.matmul", (
        "allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation", "fp32_precision",
    )),
    ("backends.mkldnn", ("enabled", "deterministic", "allow_tf32", "fp32_precision")),
    ("backends.mkldnn.matmul", ("fp32_precision",)),
    ("backends.mkldnn.conv", ("fp32_precision",)),
    ("backends.mkldnn.rnn", ("fp32_precision",)),
    ("backends.opt_einsum", ("enabled", "strategy")),
    ("backends", ("fp32_precision",)),
    ("utils.deterministic", ("fill_uninitialized_memory",)),
)  # fmt: skip
FUNCTIONS = (  # settings behind a pair of functions: (name, read, write)
    ("threads", "get_num_threads", "set_num_threads"),
    ("dtype", "get_default_dtype", "set_default_dtype"),
    ("grad", "is_grad_enabled", "set_grad_enabled"),
    ("matmul precision", "get_float32_matmul_precision", "set_float32_matmul_precision"),
    ("anomaly", "is_anomaly_enabled", "autograd.set_detect_anomaly"),
    ("autocast cache", "is_autocast_cache_enabled", "set_autocast_cache_enabled"),
    ("fast path of attention", "backends.mha.get_fastpath_enabled", "backends.mha.set_fastpath_enabled"),
    ("flash attention", "backends.cuda.flash_sdp_enabled", "backends.cuda.enable_flash_sdp"),
    ("math attention", "backends.cuda.math_sdp_enabled", "backends.cuda.enable_math_sdp"),
    ("efficient attention", "backends.cuda.mem_efficient_sdp_enabled", "backends.cuda.enable_mem_efficient_sdp"),
    ("cudnn attention", "backends.cuda.cudnn_sdp_enabled", "backends.cuda.enable_cudnn_sdp"),
    ("reduced math attention", "backends.cuda.fp16_bf16_reduction_math_sdp_allowed",
     "backends.cuda.allow_fp16_bf16_reduction_math_sdp"),
    ("nnpack", "_C._get_nnpack_enabled", "_C._set_nnpack_enabled"),
)  # fmt: skip
AUTOCAST = ("cpu", "cuda")
FRESH = {  # torch's own defaults: every unit starts with these, whatever the caller or an import has set
    "device": torch.device("cpu"),
    "deterministic algorithms": (False, False),
    "NumPy errors": (("divide", "warn"), ("over", "warn"), ("under", "ignore"), ("invalid", "warn")),
    "autocast cpu": (False, torch.bfloat16),
    "autocast cuda": (False, torch.float16),
    "dtype": torch.float32,
    "grad": True,
    "matmul precision": "highest",
    "anomaly": False,
    "autocast cache": True,
    "fast path of attention": True,
    "flash attention": True,
    "math attention": True,
    "efficient attention": True,
    "cudnn attention": True,
    "reduced math attention": False,
    "torch.backends.cudnn.enabled": True,
    "torch.backends.cudnn.benchmark": False,
    "torch.backends.cudnn.deterministic": False,
    "torch.backends.cudnn.allow_tf32": True,
    "torch.backends.cuda.matmul.allow_tf32": False,
    "torch.backends.mkldnn.enabled": True,
    "torch.backends.mkldnn.deterministic": False,
    # oneDNN's on a CPU, too; with "ieee", which "highest" above sets, it multiplies on some processors in another order
    **{f"torch.backends.{of}fp32_precision": "none" for of in (
        "", "cuda.matmul.", "cudnn.", "mkldnn.", "mkldnn.matmul.", "mkldnn.conv.", "mkldnn.rnn.",
    )},
    "torch.backends.cudnn.conv.fp32_precision": "tf32",
    "torch.backends.cudnn.rnn.fp32_precision": "tf32",
}  # fmt: skip
PASSES = 3  # one setting of float32 products changes others, old and new
UNREADABLE = object()


@dataclass(frozen=True)
class Settings:
    """The settings as they were at one moment."""

    values: tuple[tuple[str, Any, Callable[[Any], Any]], ...]  # (name, value, how to set it)

    @classmethod
    def now(cls) -> Settings:
        """Read every setting that this torch has."""
        return cls(tuple(one for one in _read() if one[1] is not UNREADABLE))

    def fresh(self) -> Settings:
        """The same settings with the values of a process in which nobody has changed any."""
        return Settings(tuple((name, FRESH.get(name, value), write) for name, value, write in self.values))

    def restore(self, now: Settings | None = None) -> tuple[str, ...]:
        """Put back what differs; the names of those settings. Denormal numbers are computed as such again.

        `now`: the present settings, if they were just read.
        """
        found = self._differing(now or Settings.now())
        differing, passes = found, 0
        while differing and passes < PASSES:
            for _, value, write in differing:
                write(value)
            differing, passes = self._differing(Settings.now()), passes + 1
        torch.set_flush_denormal(False)  # torch doesn't tell whether it is set
        return tuple(name for name, _, _ in found)

    def _differing(self, now: Settings) -> list[tuple[str, Any, Callable[[Any], Any]]]:
        present = {name: value for name, value, _ in now.values}
        return [(name, value, write) for name, value, write in self.values if present.get(name) != value]


def _read() -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """The broadest settings come last, so that restoring in this order ends with the narrow ones as a check demands."""
    yield "device", torch.get_default_device(), _set_device
    yield "deterministic algorithms", _deterministic(), _set_deterministic
    yield "NumPy errors", tuple(np.geterr().items()), _set_numpy_errors
    for kind in AUTOCAST:
        yield f"autocast {kind}", _autocast(kind), partial(_set_autocast, kind)
    for name, read, write in FUNCTIONS:
        reader, writer = _find(read), _find(write)
        if reader is not None and writer is not None:
            yield name, _value(reader), writer
    for path, names in ATTRIBUTES:
        holder = _find(path)
        for name in names:
            if holder is not None and (value := _attribute(holder, name)) is not None:
                yield f"torch.{path}.{name}", value, partial(setattr, holder, name)


@cache
def _find(path: str) -> Any:
    """What ``torch.PATH`` is, None where this torch has no such thing."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _value(reader: Callable[[], Any]) -> Any:
    """What a setting is; UNREADABLE where torch refuses to say, as after a mix of its old and new switches."""
    try:
        return reader()
    except RuntimeError:
        return UNREADABLE


def _attribute(holder: Any, name: str) -> Any:
    """An attribute's value; None where it is missing, or can't be read on this machine."""
    try:
        return getattr(holder, name, None)
    except (RuntimeError, AssertionError):
        return None


def _set_numpy_errors(value: tuple[tuple[str, Any], ...]) -> None:
    np.seterr(**dict(value))


def _set_device(device: torch.device) -> None:
    torch.set_default_device(device if device.type != "cpu" else None)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _autocast(kind: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _set_autocast(kind: str, value: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled(kind, value[0])
    torch.set_autocast_dtype(kind, value[1])
