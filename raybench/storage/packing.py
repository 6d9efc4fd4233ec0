"""Many small tensors of a nested state as a few long ones: writing each on its own takes longer than a short epoch.

What stands for a tensor is one string, as torch.save takes a call for every object that it writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SMALL = 1 << 16  # elements; a larger tensor is stored as it is, without a copy
MARK = "raybench small tensor"  # begins the string that stands for a tensor: then dtype, start and shape


def packed(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` with its small dense tensors, of whatever device, in one vector on the CPU for each dtype.

    Returns:
        {"tree": as `state`, with a string in place of each small tensor; "vectors": name of the dtype -> vector}.
    """
    small: dict[str, list[Tensor]] = {}
    lengths: dict[str, int] = {}

    def pack(value: Any) -> Any:
        if isinstance(value, Tensor):
            if type(value) is not Tensor and type(value) is not torch.nn.Parameter:
                return value
            if value.layout is not torch.strided or value.is_quantized or value.numel() > SMALL:
                return value
            kind = str(value.dtype).removeprefix("torch.")
            start = lengths.get(kind, 0)
            lengths[kind] = start + value.numel()
            small.setdefault(kind, []).append(value.detach().reshape(-1))
            return " ".join(map(str, (MARK, kind, start, *value.shape)))
        if isinstance(value, Mapping):
            return {key: pack(one) for key, one in value.items()}
        if type(value) in (list, tuple):
            return type(value)(pack(one) for one in value)
        return value

    tree = pack(state)
    return {"tree": tree, "vectors": {kind: _joined(parts) for kind, parts in small.items()}}


def _joined(parts: list[Tensor]) -> Tensor:
    """One vector on the CPU; parts may lie on several devices."""
    devices = {part.device for part in parts}
    return torch.cat(parts if len(devices) == 1 else [part.cpu() for part in parts]).cpu()


def unpacked(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `packed` has packed; each tensor has memory of its own. A state that wasn't packed is returned."""
    if set(content) != {"tree", "vectors"}:
        return dict(content)

    def slice_of(kind: str, start: int, shape: Sequence[int]) -> Tensor:
        vector: Tensor = content["vectors"][kind][start : start + math.prod(shape)]
        return vector.reshape(tuple(shape)).clone()

    def unpack(value: Any) -> Any:
        if isinstance(value, tuple) and len(value) == 4 and value[0] == MARK:  # as earlier versions wrote it
            return slice_of(value[1], value[2], value[3])
        if isinstance(value, str) and value.startswith(MARK):
            kind, *numbers = value.removeprefix(MARK).split()
            start, *shape = map(int, numbers)
            return slice_of(kind, start, shape)
        if isinstance(value, dict):
            return {key: unpack(one) for key, one in value.items()}
        if type(value) in (list, tuple):
            return type(value)(unpack(one) for one in value)
        return value

    state: dict[str, Any] = unpack(content["tree"])
    return state
