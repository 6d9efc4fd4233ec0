"""What a method removes: channels of layers, or tokens of vision transformers. Imports nothing."""

from __future__ import annotations

from typing import Literal

Kind = Literal["channels", "tokens"]
CHANNELS: Kind = "channels"
TOKENS: Kind = "tokens"
