"""Which sizes images of a dataset have, and which datasets can give theirs at another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raybench.catalogue import Entry
from raybench.image_size import Side, read_size, written

PARAMETER = "image_size"  # of datasets that scale images to a size as they read them


def own_size(entry: Entry, params: Mapping[str, Any]) -> Side | None:
    """The size of a dataset's images with these parameters; None where it isn't known without opening it."""
    return read_size(params.get(PARAMETER, entry.facts.get(PARAMETER)))


def sized(entry: Entry, params: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The parameters with which a dataset opens at another size; the same ones where images in memory are scaled."""
    return {**params, PARAMETER: size} if PARAMETER in entry.params else dict(params)


def no_size(entry: Entry, params: Mapping[str, Any]) -> str | None:
    """Why the dataset's images can't be had at another size, as far as is known without opening it; None if they can.

    Sizes of the axis are sides of squares, so that images that aren't square would change their shape.
    """
    own = own_size(entry, params)
    if own is not None and not isinstance(own, int):
        return f"images of {entry.name} are {written(own)}, not square"
    if entry.facts.get("scenes"):
        return f"{PARAMETER} of {entry.name} is the size of its scenes, not a scale"
    if PARAMETER not in entry.params and entry.facts.get("task", "classification") != "classification":
        return f"{entry.name} reads its images at one size"
    return None
