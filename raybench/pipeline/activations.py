"""Memory of activations: the most bytes that tensors of one forward pass occupy at the same time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from raybench.groups.attention import eval_mode


def peak_activations(model: nn.Module, image: Tensor) -> int:
    """Peak bytes of tensors that a forward pass of `image` makes, in eval mode and without gradients.

    Every storage counts once, from the operation that makes it until its last tensor is freed. Weights, buffers, the
    image itself and what a kernel uses inside (workspaces of cuDNN) don't count. torch's fast path for transformer
    layers, which hides their tensors, is off. The model isn't changed.
    """
    given = [*model.parameters(), *model.buffers(), image]
    with eval_mode(model), torch.no_grad(), _Live(given) as live:
        model(image)
    return live.peak


class _Live(TorchDispatchMode):
    """Notes the storages that operations make, and the largest sum of their bytes at a time."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.peak = self._bytes = 0
        self._given = [tensor.untyped_storage() for tensor in given]  # held, so that their addresses stay theirs
        self._known: dict[int, weakref.ref[Any] | None] = {storage._cdata: None for storage in self._given}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self._bytes)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        """Count `storage` until it is freed; a view of a known one counts nothing."""
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._bytes += size

        def freed(_: object) -> None:
            self._bytes -= size
            del self._known[address]

        self._known[address] = weakref.ref(storage, freed)
