"""A CUDA graph on the card of tests/card.py: operations that are done again, with what they were captured with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Numbers:
    """The card's generator: whether it was left within a capture."""

    def __init__(self) -> None:
        self.restored = 0

    def clone_state(self) -> Numbers:
        return Numbers()

    def graphsafe_set_state(self, other: Numbers) -> None:
        self.restored += 1


class Graph:
    """A captured step: operations with the tensors and numbers that they had."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.own: set[int] = set()
        self.broken = False
        self.replays = 0
        self.numbers = torch.get_rng_state()

    def did(self, func, args, kwargs):
        """Do it, as the shapes of what follows are needed, and remember what stood in the tensors that it changes."""
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if not hasattr(func, "_schema") or func._schema.is_mutable or func is aten.native_batch_norm.default:
            for one in given:
                place = one.untyped_storage().data_ptr()
                if place not in self.own and place not in self.before:
                    whole = torch.empty(0, dtype=torch.uint8).set_(one.untyped_storage())
                    self.before[place] = whole, whole.clone()
        found = func(*args, **kwargs)
        places = {one.untyped_storage().data_ptr() for one in given}
        made = [one for one in tree_leaves(found) if isinstance(one, Tensor)]
        made = [one if one.untyped_storage().data_ptr() not in places else None for one in made]
        self.own |= {one.untyped_storage().data_ptr() for one in made if one is not None}
        self.steps.append((func, args, kwargs, made))
        return found

    def take_back(self) -> None:
        torch.set_rng_state(self.numbers)
        for whole, saved in self.before.values():
            whole.copy_(saved)

    def replay(self) -> None:
        """All operations once more, into the same tensors."""
        self.replays += 1
        with torch.no_grad(), _disable_current_modes(), torch._C.DisableTorchFunction():
            for func, args, kwargs, made in self.steps:
                found = [one for one in tree_leaves(func(*args, **kwargs)) if isinstance(one, Tensor)]
                for old, new in zip(made, found, strict=True):
                    if old is not None:
                        old.copy_(new)
