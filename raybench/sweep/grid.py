"""The grid of a sweep: the cells that its axes make, as entries of the axes, and which of them are excluded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from raybench.sweep.axes import DatasetAxis, MethodAxis, ModelAxis, amounts_of
from raybench.sweep.inclusion import Exclude, Include
from raybench.sweep.recipe import Recipe
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import Amount

Cell = tuple[DatasetAxis, ModelAxis, MethodAxis, str, Amount, int]


def variants_of(sweep: Sweep) -> Iterator[tuple[Sweep, tuple[Include | None, ...]]]:
    """Variants of the sweep, each with what makes cells of it: None for its own axes, and inclusions."""
    for variant in sweep.variants():
        yield variant, (None, *(one for one in sweep.include if not one.varies))
    for extra in sweep.include:
        yield from ((variant, (extra,)) for variant in (sweep.variants(extra) if extra.varies else ()))


def cells(sweep: Sweep, extra: Include | None) -> Iterator[Cell]:
    """The product of the sweep's axes; axes that `extra` has replace the sweep's."""
    models = _entries(sweep.models, extra.models if extra else None)
    datasets = _entries(sweep.datasets, extra.datasets if extra else None)
    methods = _entries(sweep.methods, extra.methods if extra else None)
    for dataset, model, method in itertools.product(datasets, models, methods):
        axes = {
            axis: (extra and getattr(extra, axis)) or overriding(axis, method, model, dataset, sweep)
            for axis in ("strategies", "seeds")
        }
        holders = (*((extra,) if extra else ()), method, model, dataset, sweep)
        amounts = next(filter(None, map(amounts_of, holders)))  # an entry with speed-ups or targets replaces both
        for strategy, asked, seed in itertools.product(axes["strategies"], amounts, axes["seeds"]):
            yield dataset, model, method, strategy, asked, seed


def _entries(own: tuple[Any, ...], asked: tuple[Any, ...] | None) -> list[Any]:
    """The entries of `asked`, `own` for None. A bare name stands for the sweep's own entry of that name, if any."""
    if asked is None:
        return list(own)
    found: list[Any] = []
    for entry in asked:
        bare = entry.model_fields_set == {"name"}
        found += [one for one in own if bare and one.name == entry.name] or [entry]
    return found


class Excluded:
    """The cells of one variant that its `exclude` takes out."""

    def __init__(self, variant: Sweep, recipe: Callable[[DatasetAxis, ModelAxis, MethodAxis], Recipe]) -> None:
        """`recipe`: that of a cell's entries."""
        self._variant, self._recipe = variant, recipe
        self._known: dict[tuple[int, ...], list[Exclude]] = {}  # by ids of entries: those that may take a cell out

    def __contains__(self, cell: Cell) -> bool:
        if not self._variant.exclude:
            return False
        dataset, model, method, strategy, asked, seed = cell
        entries = id(dataset), id(model), id(method)
        if entries not in self._known:
            names = self._names(dataset, model, method)
            self._known[entries] = [one for one in self._variant.exclude if one.matches(names)]
        return any(
            one.takes(asked) and one.matches({"strategies": strategy, "seeds": seed}) for one in self._known[entries]
        )

    def _names(self, dataset: DatasetAxis, model: ModelAxis, method: MethodAxis) -> dict[str, Any]:
        """Axis -> value, of the axes that all cells of these entries share."""
        variant = self._variant
        return {
            "datasets": dataset.name,
            "models": model.name,
            "methods": method.name,
            "recipes": self._recipe(dataset, model, method).name,
            "protocols": variant.protocol,
            "transfer": variant.transfers[0],
            "depths": variant.depths[0],
            "image_sizes": next(iter(variant.image_sizes), None),
        }


def overriding(field: str, *holders: Any) -> Any:
    """The value of `field` in the first holder that has one."""
    return next((value for holder in holders if (value := getattr(holder, field)) is not None), None)
