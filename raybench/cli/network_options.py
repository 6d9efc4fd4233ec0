"""Options about one network and its data, shared by the verbs that build one: prune, sensitivity, inspect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from raybench.cli.quantities import image_size, parameter
from raybench.sweep.modules import as_module

DATASET = "digits"  # it comes with scikit-learn, so that a first try needs no data


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options for the network's weights and its data."""
    add = parser.add_argument
    add("--weights", metavar="F", help="safetensors file or state dict, or `pretrained` (default: train by the recipe)")
    text = "take all layers but the classifier from the weights, and train a new one by the recipe's base stage"
    add("--new-head", action="store_true", help=text)
    add("--dataset", metavar="D", help=f"dataset, one of raybench datasets (default: {DATASET}, handwritten digits)")
    add("--data-root", metavar="DIR", help="folder of the dataset")
    text = "pixels to which images are scaled, such as 64, or 128x96, width x height (default: for class folders 224)"
    add("--image-size", type=image_size, metavar="N", help=text)
    text = "parameter of the {}, such as {}; may be repeated"
    many: dict[str, Any] = {"action": "append", "type": parameter, "default": [], "metavar": "K=V"}
    add("--dataset-param", **many, help=text.format("dataset", "val_share=0.2"))
    add("--model-param", **many, help=text.format("model", "width=32"))


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the options for what of the network may shrink."""
    add = parser.add_argument
    add("--prune", nargs="+", metavar="PART", help="parts of attention models to prune: embed head-dim heads mlp")
    text = "layers that keep their width, by name or glob, such as 'layer1.*.conv2'"
    add("--keep", "--protect", nargs="+", default=[], metavar="PATTERN", help=text)
    add(
        "--only", nargs="+", default=[], metavar="PATTERN", help="layers outside which nothing shrinks, by name or glob"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--seed``."""
    text = "seed of all random numbers (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--calibration-images``."""
    text = "images that criteria which need data look at (default: the recipe's)"
    parser.add_argument("--calibration-images", type=int, metavar="N", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--device``."""
    text = "cpu, cuda or cuda:1 (default: a GPU if there is one)"
    parser.add_argument("--device", metavar="DEV", help=text)


def folder_of(model: str) -> Path:
    """The folder in which the networks made of `model` lie, unless the person names another."""
    return Path("pruned") / as_module(model).replace(":", "-").replace("/", "-")
