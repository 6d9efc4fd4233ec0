"""Criteria that look at images take all training images, where there are fewer than the recipe wants."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from raybench import registry
from raybench.catalogue import reads_images
from raybench.sweep.data_roots import called, data_root
from raybench.sweep.method_label import read_label
from raybench.sweep.sweep import Sweep


def with_fewer_images(fields: Mapping[str, Any], sweep: Sweep, args: argparse.Namespace) -> dict[str, Any] | None:
    """`fields` of a sweep in which those criteria take all training images; None where the recipe's number is there.

    Ids of other criteria stay as they are. A number that was typed is never changed. Says so on standard error, once.
    """
    entry = registry.dataset.entry(args.dataset)
    source = entry.facts.get("training_images")
    if source is None or args.calibration_images is not None:
        return None
    wanted = sweep.recipe.calibration_images
    methods = [dict(one) if isinstance(one, Mapping) else {"name": one} for one in fields["methods"]]
    looking = [method for method in methods if _looks_at_images(method["name"])]
    root = data_root(args.dataset, sweep.data_roots)
    if not looking or root is None:
        return None
    found = called(source, root, fields["datasets"][0]["params"])
    if not 0 < found < wanted:
        return None
    recipe = fields["recipe"] if isinstance(fields["recipe"], dict) else {"extends": fields["recipe"]}
    smaller = {**recipe, "calibration_images": found, "name": sweep.recipe.name}  # one board ranks all methods
    for method in looking:
        method["recipe"] = smaller
    _say_once(f"calibration: all {found} training images; the recipe asks for {wanted}")
    return {**fields, "methods": methods}


def _looks_at_images(method: str) -> bool:
    """Whether the criterion of `method`, as it is typed, is scored from images."""
    label = read_label(method)
    entry = registry.CHOICE.entry((label[0] if label else method).partition("+")[0])
    return reads_images(entry, label[1] if label else {})


@lru_cache(maxsize=1)  # a target latency reads the options many times
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)
