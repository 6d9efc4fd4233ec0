"""Labels of channels as short text, so that a test compares all that an operation does to them with one string."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torchvision  # noqa: F401  # its operations
from torch import Tensor, nn

from raybench.groups import product_rules, shape_rules  # noqa: F401  # the rules register themselves
from raybench.groups.following import RULES, Call, Choices, Followed, flat
from raybench.groups.labels import ANY, FIXED, Axis

SIGNS = {"-": FIXED, "*": ANY}
PLACE = " in the forward (Identity)"  # where everything happens here


class T:
    """A tensor argument: one letter for each axis ("-" fixed, "*" any, others: labels of its own), and its shape."""

    def __init__(self, letters: str, *shape: int) -> None:
        self.letters, self.shape = letters, shape

    def made(self, followed: Followed) -> Tensor:
        tensor = torch.rand(self.shape)
        axes = [SIGNS.get(c) or followed.labels.fresh(n) for c, n in zip(self.letters, self.shape, strict=True)]
        followed.note(tensor, axes)
        return tensor


def runs(numbers: Sequence[int]) -> str:
    """`[1, 2, 3, 7, 7]` as `1-3,7x2`."""
    found: list[list[int]] = []  # first, last, times
    several = [(n, len(list(same))) for n, same in itertools.groupby(map(int, numbers))]
    for n, times in several:
        if found and found[-1][2] == times == 1 and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n, times])
    return ",".join((str(a) if a == b else f"{a}-{b}") + (f"x{times}" if times > 1 else "") for a, b, times in found)


def written(axis: Axis) -> str:
    return runs(axis.tolist()) if isinstance(axis, np.ndarray) else {FIXED: "-", ANY: "*"}[axis]


def done(followed: Followed) -> list[str]:
    """What was united, as `1-4 = 5-8`, what was pinned, as `1-4: why`, and whether an axis of channels was divided."""
    pairs = [f"{runs(left)} = {runs(right)}" for left, right in followed.labels.united]
    divided = ["divided" for _ in followed.reshaped]
    return pairs + [f"{runs(labels)}: {why.removesuffix(PLACE)}" for labels, why in followed.labels.reasons] + divided


def ruled(operation: str, *args: object, choices: Choices | None = None, **kwargs: object) -> str:
    """What the rule of `operation` (`name.overload`) makes of its outputs' axes, unites and pins.

    The labels of the tensors `T` among the arguments count from 1, in their order.
    """
    followed = Followed(nn.Identity(), choices or Choices(), math.inf)

    def made(value: object) -> object:
        if isinstance(value, list):
            return [made(one) for one in value]
        return value.made(followed) if isinstance(value, T) else value

    space, _, rest = operation.rpartition("::")
    name, _, overload = rest.partition(".")
    function = getattr(getattr(getattr(torch.ops, space or "aten"), name), overload or "default")
    real, named = [made(one) for one in args], {key: made(one) for key, one in kwargs.items()}
    outs = [o for o in flat(function(*real, **named)) if isinstance(o, Tensor)]
    full = f"{space or 'aten'}::{name}"
    call = Call(full, real, named, outs, [argument.name for argument in function._schema.arguments])
    found = RULES.get(full, RULES["aten::pointwise"])(followed, call)
    axes = ["unknown"] if found is None else [" ".join(map(written, one)) for one in found]
    return "; ".join(axes + done(followed))
