"""Tensors in a file of safetensors or of torch.save, read without running its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from raybench.errors import UserError
from raybench.models.file_kinds import kind_of, plain
from raybench.models.torch_files import load_inert
from raybench.models.weight_names import flat

SHOWN = 5  # keys quoted in a message


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in the file `path` by its dotted path; UserError when it has none, is unsafe or can't be read."""
    return tensors_in(_content(path), path)


def _content(path: Path) -> Any:
    """What the file holds, by its content rather than its ending."""
    if kind_of(path) != "safetensors":
        return load_inert(path)
    try:
        return load_file(path)
    except Exception as error:  # the header is text that anything may be written into
        message = plain(str(error))
        raise UserError(f"{path}: not a readable file of safetensors ({message}); download or copy it again") from error


def tensors_in(found: Any, path: Path) -> dict[str, Tensor]:
    """The tensors in what `path` holds; UserError when there are none."""
    try:
        tensors = flat(found)
    except ValueError as error:
        raise UserError(f"{path}: not read: {error}; save model.state_dict() alone") from error
    if isinstance(found, Tensor) or not isinstance(found, (dict, list, tuple)) or (not tensors and _is_list(found)):
        raise UserError(f"{path}: found {type(found).__name__}; expected a state dict (name -> tensor)")
    if not tensors:
        keys = ", ".join(plain(str(key), 40) for key in list(found)[:SHOWN] if isinstance(key, (str, int)))
        raise UserError(f"{path}: found no tensors in it; its keys are {keys or 'none'}; save model.state_dict()")
    return tensors


def _is_list(found: Any) -> bool:
    return isinstance(found, (list, tuple))
