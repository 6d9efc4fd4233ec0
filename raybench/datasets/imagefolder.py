"""ImageNet and any other tree of class folders; images are read from disk batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from raybench.datasets.class_counts import TEST_SHARE
from raybench.datasets.data import Data
from raybench.datasets.enlarged import enlarged_line
from raybench.datasets.facts import DataFacts
from raybench.datasets.files import FileImages, Listing, list_classes
from raybench.datasets.splits import stratified
from raybench.datasets.statistics import with_statistics
from raybench.datasets.tree import class_folders, listed, shared_folders, warn_once
from raybench.errors import UserError, counted
from raybench.image_size import EXPECTED, ImageSize, Side, read_size, sides
from raybench.registry import dataset


@dataset(
    "imagenet",
    task="classification",
    classes=1000,
    in_channels=3,
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    licence="ImageNet's terms: non-commercial research",
)
def imagenet(
    facts: DataFacts,
    root: Path | None,
    *,
    image_size: ImageSize = 224,
    val_share: float = 0.02,
    split_seed: int = 0,
    statistics: str = "own",
    max_unreadable: float = 0.001,
) -> Data:
    """ILSVRC 2012: `train/WNID/*.JPEG` and `val/WNID/*.JPEG`; classes in the order of their WordNet ids.

    `val/` is the test split (50,000 images); 2 % of each training class is held out for selection.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    facts = replace(facts, image_size=_size(image_size))
    return _open(facts, root, ("train", "val"), val_share, split_seed, statistics, max_unreadable, as_stored=True)


@dataset(
    "imagefolder",
    task="classification",
    classes=0,  # as many as there are folders
    in_channels=3,
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    licence="the user's own data",
    user_data=True,
    layout="raybench.datasets.tree:class_folders",
    training_images="raybench.datasets.class_counts:training_images",
    version=2,  # 2: EXIF orientation, 16 bits of grey, more endings, linked folders
)
def imagefolder(
    facts: DataFacts,
    root: Path | None,
    *,
    image_size: ImageSize = 224,
    val_share: float = 0.1,
    split_seed: int = 0,
    statistics: str = "own",
    max_unreadable: float = 0.01,
) -> Data:
    """`train/CLASS/*` and `val/CLASS/*`, classes in alphabetical order; photos upright by their EXIF orientation.

    With a `test/` folder, `val/` selects the epoch and `test/` gives the final figure. Without one, `val/` is the test
    split and `val_share` of each training class is held out for selection. Where the class folders lie in the root
    itself, a fifth of each class, drawn by the seed, is the test split.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    facts = replace(facts, image_size=_size(image_size))
    return _open(facts, root, class_folders(root), val_share, split_seed, statistics, max_unreadable)


def _size(image_size: ImageSize) -> Side:
    """The size as the network takes it; UserError for what says none."""
    size = read_size(image_size)
    if size is None:
        raise UserError(f"image_size: found {image_size!r}, expected {EXPECTED}")
    return size


def _open(
    facts: DataFacts,
    root: Path,
    names: Sequence[str],
    val_share: float,
    split_seed: int,
    statistics: str,
    max_unreadable: float,
    *,
    as_stored: bool = False,
) -> Data:
    """The splits of the folders `names` below `root`, which must hold the same classes."""
    listings = [list_classes(root / name, facts.name, max_unreadable, as_stored) for name in names]
    warn_once(_unused_line(listings, facts.name, root))
    if not as_stored:
        warn_once(enlarged_line(listings[0].files, sides(facts.image_size), facts.name))
    warn_once(shared_folders({listing.folder.name: listing.folder for listing in listings}, facts.name))
    classes = listings[0].classes
    for listing in listings[1:]:
        _check_same(listings[0], listing, facts.name)
    if facts.classes and len(classes) != facts.classes:
        raise UserError(
            f"dataset {facts.name!r}: found {counted(len(classes), 'class folder')} in {root / names[0]}, "
            f"expected {facts.classes}; `imagefolder` takes any number"
        )
    facts = with_statistics(replace(facts, classes=len(classes), class_names=classes), statistics)
    splits, note = _splits(listings, val_share, split_seed, facts.name)
    if len(listings) == 1:
        warn_once(f"dataset {facts.name!r}: no train/ and val/ in {root}: {note}")
    images = {name: FileImages(listing, sides(facts.image_size)) for name, listing in splits.items()}
    return Data(facts, split_note=note, **images)


def _splits(listings: Sequence[Listing], val_share: float, seed: int, dataset: str) -> tuple[dict[str, Listing], str]:
    """The splits train, val, test and whole (train and val), and how they were made.

    `listings`: of one folder; of train/ and val/, which is then the test split; or of train/, val/ and test/.
    """

    def divided(listing: Listing, share: float) -> tuple[Listing, Listing]:
        rest, held_out = stratified(torch.tensor(listing.labels), share, seed, len(listing.classes), dataset)
        return listing.only(rest.tolist()), listing.only(held_out.tolist())

    if len(listings) == 3:
        train, val, test = listings
        return {"train": train, "val": val, "test": test, "whole": train + val}, "train/, val/ and test/ folders"
    if len(listings) == 1:
        whole, test = divided(listings[0], TEST_SHARE)
        note = f"{TEST_SHARE:.0%} of each class for test, {val_share:.0%} of the rest for val, seed {seed}"
    else:
        whole, test = listings
        note = f"{val_share:.0%} of train/ held out for val, stratified, seed {seed}; test is val/"
    train, val = divided(whole, val_share)
    return {"train": train, "val": val, "test": test, "whole": whole}, note


def _unused_line(listings: Sequence[Listing], dataset: str, root: Path) -> str:
    """One line: what is read differently from how it is stored, and what lies there and isn't used; empty for none."""
    changed: Counter[str] = sum((listing.changed for listing in listings), Counter())
    unused: Counter[str] = sum((listing.unused for listing in listings), Counter())
    parts = [f"{counted(count, 'image')} {how}" for how, count in sorted(changed.items())]
    parts += [f"not used: {listed(unused)}"] if unused else []
    return f"dataset {dataset!r}: {root}: {'; '.join(parts)}" if parts else ""


def _check_same(one: Listing, other: Listing, name: str) -> None:
    """UserError naming the first classes that only one of the two folders has."""
    unshared = sorted(set(one.classes) ^ set(other.classes))
    if unshared:
        shown = [
            f"{label} ({'only' if label in one.classes else 'not'} in {one.folder.name}/)" for label in unshared[:3]
        ]
        raise UserError(
            f"dataset {name!r}: {one.folder} and {other.folder} have different classes: {', '.join(shown)}"
            + (f" and {len(unshared) - 3} more" if len(unshared) > 3 else "")
        )
