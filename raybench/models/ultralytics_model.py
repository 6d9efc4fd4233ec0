"""What all networks of ultralytics share here: weights by their layers' numbers, and their own checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raybench.errors import UserError
from raybench.image_size import Side
from raybench.models.file_kinds import plain
from raybench.models.ultralytics_blocks import halved, without_splits
from raybench.models.ultralytics_checkpoint import read_checkpoint

COUNTERS = ("total_ops", "total_params")  # that ultralytics' FLOP counter leaves in a state dict
_NUMBERED = re.compile(r"^(?:[A-Za-z_]\w*\.)*?(\d+\..+)$")  # a layer's number and the rest of its tensor's name


class LayeredModel(nn.Module):
    """Mixin of ultralytics' models, which are lists of numbered layers."""

    model: nn.Sequential
    split_free: tuple[str, ...] = ()  # names of the blocks whose split was replaced

    def __init__(self, config: dict[str, Any], in_channels: int, num_classes: int) -> None:
        super().__init__(config, ch=in_channels, nc=num_classes, verbose=False)
        self.prepare()

    def prepare(self) -> None:
        """Replace splits, of a model that ultralytics has built."""
        self.split_free = tuple(f"model.{name}" for name in without_splits(self.model))

    def for_export(self) -> LayeredModel:
        """Switch the output to predictions alone, without what only training needs; returns itself."""
        head: Any = self.model[-1]
        head.export = True
        return self

    def save_for_ultralytics(self, path: Path, names: Sequence[str], image_size: Side) -> None:
        """Write a checkpoint that `ultralytics.YOLO(path)` loads; it contains no class of raybench."""
        from raybench.models.ultralytics_export import save

        save(self, path, names, image_size)

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """Weights from an ultralytics checkpoint, a state dict or safetensors, renamed to this model's names.

        UserError when the file can't be read without running its code.
        """
        state = read_checkpoint(path)
        try:
            return self.own_names(state)
        except (RuntimeError, ValueError, NotImplementedError) as error:  # a tensor that can't be cut in halves
            kind = type(self).__name__
            raise UserError(f"{path}: these are not weights of this {kind}: {plain(str(error))}") from error

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict from ultralytics' names to this model's, without prefixes such as `module.` before them.

        One in this model's names is unchanged; what isn't part of a list of layers is left out.
        """
        numbered = {found[1]: value for name, value in state.items() if (found := _NUMBERED.search(name))}
        state = {f"model.{name}": value for name, value in numbered.items() if not name.endswith(COUNTERS)} or dict(
            state
        )
        if not self.split_free or f"{self.split_free[0]}.cv0.conv.weight" in state:
            return state
        return halved(state, self.split_free)
