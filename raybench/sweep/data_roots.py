"""Finds the folder of a dataset on this machine and fingerprints a user's data. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import importlib
import os
import socket
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raybench import registry
from raybench.errors import RaybenchWarning, UserError, nearest_path
from raybench.sweep.fingerprint import LENGTH, file_fingerprint, fingerprint

NO_FILES = ("proc", "sys")  # of the root folder: links there lead round in circles
ROOT_VARIABLE = "RAYBENCH_DATA"


def folder_hint(name: str) -> str:
    """What to type for a folder of images, after the message about an unknown dataset `name`."""
    if Path(name).is_dir():
        return f". {name} is a folder here: for class folders use the dataset imagefolder, with {name} as its data root"
    return ". Class folders of your own images: imagefolder"


def data_root(name: str, roots: Mapping[str, Path | str]) -> Path | None:
    """The folder of dataset `name`: `roots[name]`, else RAYBENCH_DATA/name; None for data inside a library.

    Raises UserError, naming the folder or variable, when there is no such folder.
    """
    if registry.dataset.entry(name).facts.get("embedded"):
        return None
    if name in roots:
        root, source = Path(roots[name]).expanduser(), f"data_roots: {name}"
    elif os.environ.get(ROOT_VARIABLE):
        root, source = Path(os.path.expanduser(os.environ[ROOT_VARIABLE])) / name, ROOT_VARIABLE
    else:
        raise UserError(
            f"dataset {name!r} needs its folder: set {ROOT_VARIABLE} to a folder with a subfolder {name!r}, "
            f"or data_roots: {{{name}: FOLDER}} in the sweep"
        )
    if not root.is_dir():
        near = nearest_path(root)
        raise UserError(f"dataset {name!r}: found no folder {root} (from {source}){near and f'.{near}'}")
    if (real := root.resolve()).parts[1:2] and real.parts[1] in NO_FILES:
        what = f"{root} (from {source}), where the system shows its processes and devices as files"
        raise UserError(f"dataset {name!r}: found {what}; expected a folder of data")
    return root


def data_fingerprint(
    name: str, roots: Mapping[str, Path | str], params: Mapping[str, Any], *, quick: bool = False
) -> str | None:
    """Hash of what dataset `name` holds on this machine; None for an embedded one.

    None, too, for a published dataset that isn't here: a cluster may have it where the driver has not.

    Args:
        name: of a registered dataset.
        roots: dataset name -> its folder, as in a sweep.
        params: parameters of the dataset, on which it may depend what lies outside its folder.
        quick: see `fingerprint`.

    Raises:
        UserError: a user's own data isn't here.
    """
    facts = registry.dataset.entry(name).facts
    try:
        root = data_root(name, roots)
    except UserError:
        if facts.get("user_data"):
            raise
        return None
    if root is None:
        return None
    if facts.get("layout"):  # a wrong folder is told before anything is imported to open it
        called(facts["layout"], root)
    outside = called(facts["elsewhere"], root, params) if facts.get("elsewhere") else ()
    digests, left_out = [], Counter[str]()
    for place in (root / facts.get("reads", ""), *outside):
        if place.is_file():
            digests.append(file_fingerprint(place))
            continue
        found = fingerprint(place, quick=quick)
        digests.append(found.digest)
        left_out.update(found.left_out)
    if left_out:
        counted = ", ".join(f"{count} {what}" for what, count in left_out.items())
        warnings.warn(f"dataset {name!r}: {root}: {counted}", RaybenchWarning, stacklevel=2)
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()[:LENGTH]


def called(source: str, *arguments: Any) -> Any:
    """What the `module:function` of a registration returns."""
    module, _, function = source.partition(":")
    return getattr(importlib.import_module(module), function)(*arguments)


def check_fingerprint(
    name: str,
    roots: Mapping[str, Path | str],
    expected: str | None,
    params: Mapping[str, Any] = MappingProxyType({}),
    *,
    quick: bool = True,
) -> None:
    """UserError when dataset `name` on this machine isn't the one that a trial was planned with.

    `expected`: the trial's `dataset_fingerprint`; without a data part there is nothing to compare with.
    """
    planned = (expected or "").rpartition(":")[2]
    if len(planned) != LENGTH:
        return
    found = data_fingerprint(name, roots, params, quick=quick)
    if found is not None and found != planned:
        raise UserError(
            f"dataset {name!r}: {data_root(name, roots)} on {socket.gethostname()} holds other data "
            f"(fingerprint {found}) than the sweep was planned with ({planned}); plan again, or make the folders equal"
        )
