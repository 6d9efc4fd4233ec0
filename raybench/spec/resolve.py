"""Sweep -> trials: the product of the axes, every default filled in, every code and file pinned by version or hash."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.datasets.roots import data_root, fingerprint
from raybench.errors import SpecError, UserError
from raybench.spec.axes import DatasetAxis, MethodAxis, ModelAxis, resolved
from raybench.spec.modules import module_source
from raybench.spec.sweep import Exclude, Include, Sweep
from raybench.spec.trial import MethodRef, Trial, Weights

DEFAULT_PARTS = ("embed", "head-dim", "mlp")  # of attention models: their MLPs alone can't reach 4x
NO_DATA = ("nothing", "weights")  # what these need is at hand after every step on paper: scored progressively


def resolve(sweep: Sweep) -> tuple[Trial, ...]:
    """Every cell of the sweep as a resolved trial, each once, in the order of the axes.

    Raises SpecError where a weights file or a user's data can't be read, or nothing is left of the grid.
    """
    _warn_of_idle_parts(sweep)
    trials: dict[str, Trial] = {}
    resolver = _Resolver(sweep)
    for cell in itertools.chain(_cells(sweep, None), *(_cells(sweep, one) for one in sweep.include)):
        if not any(_matches(cell, one) for one in sweep.exclude):
            trial = resolver.trial(*cell)
            trials.setdefault(trial.trial_id, trial)
    if not trials:
        raise SpecError(f"sweep {sweep.name!r} has no cells: `exclude` takes all of them out")
    return tuple(trials.values())


Cell = tuple[DatasetAxis, ModelAxis, MethodAxis, str, float, int]


def _cells(sweep: Sweep, extra: Include | None) -> Iterator[Cell]:
    """The product of the sweep's axes, or of what `extra` puts in their place."""
    models = _entries(sweep.models, extra and extra.models)
    datasets = _entries(sweep.datasets, extra and extra.datasets)
    methods = _entries(sweep.methods, extra and extra.methods)
    for dataset, model, method in itertools.product(datasets, models, methods):
        said = {
            axis: (extra and getattr(extra, axis)) or overriding(axis, method, model, dataset, sweep)
            for axis in ("strategies", "speedups", "seeds")
        }
        for strategy, speedup, seed in itertools.product(said["strategies"], said["speedups"], said["seeds"]):
            yield dataset, model, method, strategy, speedup, seed


def _entries(own: tuple[Any, ...], asked: tuple[Any, ...] | None) -> list[Any]:
    """The entries that `asked` means: a bare name is the sweep's own entry of that name, where there is one."""
    if asked is None:
        return list(own)
    found: list[Any] = []
    for entry in asked:
        bare = entry.model_fields_set == {"name"}
        found += [one for one in own if bare and one.name == entry.name] or [entry]
    return found


def _matches(cell: Cell, one: Exclude) -> bool:
    dataset, model, method, strategy, speedup, seed = cell
    values = {"datasets": dataset.name, "models": model.name, "methods": method.name,
              "strategies": strategy, "speedups": speedup, "seeds": seed}  # fmt: skip
    return all(values[axis] in getattr(one, axis) for axis in one.model_fields_set if getattr(one, axis))


def _warn_of_idle_parts(sweep: Sweep) -> None:
    """Say where `prune` is asked of models without attention only: it changes nothing there."""
    entries = [*sweep.models, *itertools.chain(*(one.models or () for one in sweep.include))]
    without = {axis.name for axis in entries if _attention(axis.name) is False}
    idle = {axis.name: axis.prune for axis in entries if axis.prune and axis.name in without}
    if sweep.prune and all(axis.name in without for axis in entries):
        idle = dict.fromkeys((axis.name for axis in entries), sweep.prune) | idle
    for name, parts in idle.items():
        warnings.warn(f"prune: {', '.join(parts)}: changes nothing for {name}, which has no attention", stacklevel=2)


def _attention(model: str) -> bool | None:
    """Whether a registered model has attention; None for others, of which that isn't known before they are built."""
    entry = registry.model.entries().get(model)
    return entry.facts.get("attention", False) if entry else None


def overriding(field: str, *holders: Any) -> Any:
    """The first of the holders' values of `field` that was set; the last holder always has one."""
    return next((value for holder in holders if (value := getattr(holder, field)) is not None), None)


class _Resolver:
    """Fills in trials; what files and sources hash to is looked up once a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._parts: dict[tuple[int, str], dict[str, Any]] = {}

    def trial(
        self, dataset: DatasetAxis, model: ModelAxis, method: MethodAxis, strategy: str, speedup: float, seed: int
    ) -> Trial:
        sweep = self.sweep
        fields = self._once(dataset, self._dataset) | self._once(model, self._model) | self._once(method, self._method)
        attention, auto, least = fields.pop("attention"), fields.pop("auto"), fields.pop("min_images")
        recipe = overriding("recipe", method, model, dataset, sweep)
        if recipe.calibration_images < least:
            raise SpecError(
                f"method {method.name!r} needs at least {least} calibration images; "
                f"recipe {recipe.name!r} has {recipe.calibration_images}"
            )
        schedule = overriding("schedule", method, model, dataset, sweep)
        parts = overriding("prune", method, model, dataset, sweep) or DEFAULT_PARTS
        return Trial(
            **fields,
            strategy=strategy,
            speedup=speedup,
            ratio=sweep.ratio,
            seed=seed,
            base_seed=seed if sweep.base_seeds == "per-seed" else 0,
            protocol=sweep.protocol,
            schedule=auto if schedule == "auto" else schedule,
            prune=() if attention is False else tuple(sorted(parts)),
            round_to=overriding("round_to", method, model, dataset, sweep),
            recipe=recipe,
        )

    def _once(self, entry: Any, make: Any) -> dict[str, Any]:
        key = (id(entry), make.__name__)
        if key not in self._parts:
            self._parts[key] = make(entry)
        return self._parts[key]

    def _dataset(self, axis: DatasetAxis) -> dict[str, Any]:
        entry = registry.dataset.entry(axis.name)
        marks = [entry.source] if entry.source else []
        if entry.facts.get("user_data"):
            root = data_root(axis.name, self.sweep.data_roots)
            marks += [fingerprint(root)] if root else []
        return {
            "dataset": axis.name,
            "dataset_params": resolved(entry, axis.params),
            "dataset_version": entry.facts.get("version", 1),
            "dataset_fingerprint": ":".join(marks) or None,
            "task": entry.facts.get("task", "classification"),
        }

    def _model(self, axis: ModelAxis) -> dict[str, Any]:
        entry = registry.model.entries().get(axis.name)
        return {
            "model": axis.name,
            "model_params": resolved(entry, axis.params) if entry else axis.params,
            "model_version": entry.facts.get("version", 1) if entry else 1,
            "model_source": entry.source if entry else module_source(axis.name),
            "weights": self._weights(axis, entry.facts if entry else {}),
            "attention": _attention(axis.name),
        }

    def _weights(self, axis: ModelAxis, facts: Mapping[str, Any]) -> Weights:
        if axis.weights == "trained":
            return Weights()
        if axis.weights == "pretrained":
            identity = facts.get("pretrained", axis.name)  # timm names its own
            return Weights(kind="hub", identity=identity)
        return Weights(kind="file", identity=_sha256(Path(axis.weights), axis.name), path=axis.weights)

    def _method(self, axis: MethodAxis) -> dict[str, Any]:
        importance = registry.importance.entry(axis.importance)
        regularizer = registry.regularizer.entry(axis.regularizer) if axis.regularizer else None
        one_walk = importance.facts.get("needs", "weights") in NO_DATA or self.sweep.protocol == "pruningbench"
        return {
            "importance": _pinned(importance, axis.params),
            "regularizer": _pinned(regularizer, axis.regularizer_params) if regularizer else None,
            "min_images": importance.facts.get("min_images", 1),
            "auto": "one-shot" if self.sweep.ratio else "progressive" if one_walk else "iterative",
        }


def _pinned(entry: Any, params: Mapping[str, Any]) -> MethodRef:
    version = entry.facts.get("version", 1)
    return MethodRef(name=entry.name, params=resolved(entry, params), version=version, source=entry.source)


def _sha256(file: Path, model: str) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model {model!r}: its weights {file} can't be read: {error.strerror}") from error
