"""What is removed: channels of layers or tokens of vision transformers, and whole blocks. Imports nothing."""

from __future__ import annotations

from typing import Literal

Kind = Literal["channels", "tokens"]
CHANNELS: Kind = "channels"
TOKENS: Kind = "tokens"
KNAPSACKS = ("optimal", "optimal-blocks")  # strategies that don't rank channels
REMOVES_BLOCKS = ("optimal-blocks",)  # strategies that may remove whole blocks
WHOLE = 1.0  # depth of a network that keeps all its blocks
DIMENSIONS = ("depth", "width", "resolution")  # what makes a network cheaper, as `raybench search` has it
Place = tuple[float, int | None]  # (depth, image size; None: the dataset's own)
