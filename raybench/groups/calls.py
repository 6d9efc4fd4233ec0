"""How often each layer is applied in one forward pass: to how many pixels or tokens, and on which width it depends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.attention import Attention
from raybench.groups.hooks import hooked
from raybench.groups.layer_types import CONVOLUTIONS, TRANSPOSED
from raybench.groups.products import counted_macs
from raybench.groups.records import Groups
from raybench.groups.shell import Shell
from raybench.groups.widths import Widths


@dataclass(frozen=True)
class Calls:
    """What one forward pass showed."""

    pixels: Counter[str]  # layer -> pixels (or tokens, or window-tokens squared) that it is applied to
    macs: int  # torch's own count
    by_module: Mapping[str, int]
    along: bool  # whether a linear layer was given more than one axis besides its own: channels may be among them

    @classmethod
    def of(cls, model: nn.Module, image: Tensor, heads: Mapping[str, Attention]) -> Calls:
        """Run `model` once on `image`."""
        pixels: Counter[str] = Counter()
        along: list[str] = []

        def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name in heads:
                batch, *tokens, _ = inputs[0].shape
                pixels[name] += batch * int(np.prod(tokens)) ** 2
            elif isinstance(module, nn.Linear):
                pixels[name] += output.numel() // output.shape[-1]
                along.extend([name] if output.dim() > 2 else [])
            else:
                grid = inputs[0] if isinstance(module, TRANSPOSED) else output
                pixels[name] += grid.shape[2:].numel() * grid.shape[0]

        with hooked(
            module.register_forward_hook(lambda m, i, o, name=name: note(name, m, i, o))
            for name, module in model.named_modules()
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)) or name in heads
        ):
            macs, by_module = counted_macs(model, image)
        return cls(pixels, macs, by_module, bool(along))


def lengthwise(
    model: nn.Module, example: Tensor, groups: Groups, widths: Widths, heads: Mapping[str, Attention], calls: Calls
) -> dict[str, int]:
    """Layer -> column of the width on which the number of its rows depends, where it does (a mixer's token layers).

    Raises:
        NotSupported: no width explains how often a layer is applied after two random cuts.
    """
    if not calls.along:
        return {}
    seen: list[Calls] = []

    def noting(net: nn.Module, image: Tensor) -> int:
        seen.append(Calls.of(net, image, heads))
        return seen[-1].macs

    shell, rng = Shell.of(model, example, groups, noting), np.random.default_rng(0)
    sizes, least = (np.array([getattr(group, name) for group in groups], dtype=np.int64) for name in ("size", "least"))
    cuts = [rng.integers(least, sizes + 1) for _ in range(2)]
    full, tables, after = widths.at(sizes), [widths.at(kept) for kept in cuts], []
    for kept in cuts:
        shell.cut([np.arange(units) for units in kept])
        after.append(seen[-1].pixels)
    found = {}
    for name, before in calls.pixels.items():
        if all(pixels[name] == before for pixels in after):
            continue
        fits = np.all([before * t == pixels[name] * full for t, pixels in zip(tables, after, strict=True)], axis=0)
        if not fits.any():
            raise NotSupported(
                f"can't predict the cost of {type(model).__name__}: how often {name} is applied depends on more than "
                "one width"
            )
        found[name] = int(fits.argmax())
    return found
