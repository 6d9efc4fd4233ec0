"""TF32 or exact float32 products on a GPU: torch's switches for them, old and new, set together and put back.

torch has `allow_tf32` (and `set_float32_matmul_precision`) and, since 2.9, `fp32_precision`. It refuses to read the old
ones where the new ones say something else, as after a plug-in has set one of those. What a kernel asks are the new ones
of its own kind, matmul, convolution or RNN; where they are "none" those of all kinds, and of all backends, count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_matmul, _cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
_backends: Any = torch.backends  # torch defines its attributes through module classes
_kinds: tuple[Any, ...] = (_matmul, _cudnn.conv, _cudnn.rnn)  # type: ignore[attr-defined]
_wider: tuple[Any, ...] = (_backends, _cudnn)  # of all backends, of all kinds on CUDA


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Context in which float32 products and convolutions of a GPU are TF32, or exact for "fp32".

    The settings that torch has are left alone for "".
    """
    if not precision:
        yield
        return
    before = _Switches.now()
    tf32 = precision != "fp32"
    _Switches("high" if tf32 else "highest", tf32, ("tf32" if tf32 else "ieee",) * len(_kinds)).set()
    try:
        yield
    finally:
        before.set()


@dataclass(frozen=True)
class _Switches:
    matmul: str  # highest, high or medium: what `torch.get_float32_matmul_precision` says
    convolutions: bool  # cuDNN's `allow_tf32`
    kinds: tuple[str, ...]  # of `_kinds`; "none" where they follow the setting of all

    @classmethod
    def now(cls) -> _Switches:
        """The present switches; the old ones are read while the new ones say TF32: torch then refuses for "off"."""
        kinds = _own_settings()
        try:
            for one in _kinds:
                one.fp32_precision = "tf32"
            return cls(_matmul_precision(), _said(lambda: _cudnn.allow_tf32, False), kinds)
        finally:
            _set_kinds(kinds)

    def set(self) -> None:
        """Set them, the new ones last: setting an old one changes new ones, too."""
        if self.matmul == "medium":
            multiply = _backends.mkldnn.matmul
            on_cpu = multiply.fp32_precision
            torch.set_float32_matmul_precision(self.matmul)
            multiply.fp32_precision = on_cpu
        else:
            _matmul.allow_tf32 = self.matmul != "highest"
        _cudnn.allow_tf32 = self.convolutions
        _set_kinds(self.kinds)


def _own_settings() -> tuple[str, ...]:
    """What each of `_kinds` is set to itself; torch tells what it comes to with the wider settings.

    One that nobody has set says "tf32" for convolutions and RNNs, and follows the wider settings, as "none" does.
    """
    followed, of_all = _cudnn.fp32_precision != "none", _backends.fp32_precision
    _backends.fp32_precision = "none"  # cuDNN's then says what itself is set to
    wider = of_all, _cudnn.fp32_precision
    try:
        alone, otherwise = _read_under("none"), _read_under("ieee")
    finally:
        for holder, value in zip(_wider, wider, strict=True):
            holder.fp32_precision = value
    return tuple("none" if followed and one != other else one for one, other in zip(alone, otherwise, strict=True))


def _read_under(value: str) -> list[str]:
    """What `_kinds` come to where both wider settings are `value`."""
    for holder in _wider:
        holder.fp32_precision = value
    return [one.fp32_precision for one in _kinds]


def _set_kinds(values: tuple[str, ...]) -> None:
    for one, value in zip(_kinds, values, strict=True):
        one.fp32_precision = value


def _matmul_precision() -> str:
    if not _said(lambda: _matmul.allow_tf32, False):
        return "highest"
    return _said(torch.get_float32_matmul_precision, "high")


def _said(read: Callable[[], Any], refused: Any) -> Any:
    """A switch; `refused` where torch doesn't say."""
    try:
        return read()
    except RuntimeError:
        return refused
