"""Metrics of methods as arrays, methods by seeds, one for each dataset and model: what the statistics work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Block:
    """The metrics of one dataset and model at one speed-up: `values[method, seed]`, without gaps."""

    dataset: str
    model: str
    seeds: tuple[tuple[int, int], ...]  # (seed, base seed)
    values: np.ndarray

    @property
    def name(self) -> str:
        """``model on dataset``."""
        return f"{self.model} on {self.dataset}"


@dataclass(frozen=True, eq=False)
class Samples:
    """Methods that are compared, with the same methods in the same order in every block."""

    methods: tuple[str, ...]
    blocks: tuple[Block, ...]
    left_out: tuple[str, ...] = ()  # methods that some block lacks

    @property
    def unit(self) -> str:
        """What is counted as independent: datasets with their model, or the seeds of the only one."""
        return "seeds" if len(self.blocks) == 1 else "pairs of dataset and model"

    @property
    def units(self) -> np.ndarray:
        """Metrics by method and independent unit: seeds of one block, or else the means of blocks over seeds."""
        if len(self.blocks) == 1:
            return self.blocks[0].values
        return np.stack([block.values.mean(axis=1) for block in self.blocks], axis=1)


Key = tuple[str, str]
Cells = dict[Key, dict[str, dict[tuple[int, int], float]]]  # (dataset, model) -> method -> (seed, base seed) -> metric


def samples(cells: Cells) -> Samples:
    """Arrange cells so that nothing is missing: every method in all blocks, and in each block on the same seeds.

    Methods that a block lacks are left out by name. Of a block's seeds those that every method has are kept; while
    there are none, the method with the fewest seeds is left out.

    Args:
        cells: metrics of cells that differ in nothing else than dataset, model, method and seed.

    Example:
        >>> cells = {("digits", "net"): {"a": {(0, 0): 90.0, (1, 0): 91.0}, "b": {(0, 0): 89.0}}}
        >>> found = samples(cells)
        >>> found.methods, found.blocks[0].values.tolist()
        (('a', 'b'), [[90.0], [89.0]])
    """
    every = sorted({method for by_method in cells.values() for method in by_method})
    methods = [name for name in every if all(name in by_method for by_method in cells.values())]
    while methods and not all(_common(by_method, methods) for by_method in cells.values()):
        methods.remove(min(methods, key=lambda name: min(len(by_method[name]) for by_method in cells.values())))
    blocks = [_block(key, by_method, methods) for key, by_method in sorted(cells.items())] if methods else []
    left_out = tuple(name for name in every if name not in methods)
    return Samples(tuple(methods), tuple(blocks), left_out)


def _common(by_method: dict[str, dict[tuple[int, int], float]], methods: Sequence[str]) -> set[tuple[int, int]]:
    return set.intersection(*(set(by_method[name]) for name in methods))


def _block(key: Key, by_method: dict[str, dict[tuple[int, int], float]], methods: Sequence[str]) -> Block:
    seeds = tuple(sorted(_common(by_method, methods)))
    values = np.array([[by_method[name][seed] for seed in seeds] for name in methods], dtype=float)
    return Block(*key, seeds, values)
