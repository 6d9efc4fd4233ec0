"""Resolves a sweep into trials: the product of its axes, defaults filled in, code and files identified."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from raybench import registry
from raybench.catalogue import TRAINING, Entry, needs_images, reads_images
from raybench.errors import SpecError, UserError
from raybench.storage.hashing import file_sha256
from raybench.sweep.axes import DatasetAxis, MethodAxis, ModelAxis, resolved
from raybench.sweep.bounds import AUGMENTATIONS, unused
from raybench.sweep.data_roots import data_fingerprint
from raybench.sweep.environment import number_variables, warn_of_variables
from raybench.sweep.grid import Excluded, cells, overriding, variants_of
from raybench.sweep.image_sizes import own_size
from raybench.sweep.kinds import CHANNELS, TOKENS
from raybench.sweep.modules import check_function, module_source, plugin_source
from raybench.sweep.recipe import Recipe
from raybench.sweep.speed import TASKS
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import Amount
from raybench.sweep.trial import DEFAULT_PARTS, MethodRef, Trial
from raybench.sweep.weights import NONE, STAGE, Transfer, Weights


def resolve(sweep: Sweep) -> tuple[Trial, ...]:
    """Every cell of the sweep as a resolved trial, without duplicates, in the order of the axes.

    Raises SpecError when the grid is empty or a method needs more calibration images, UserError when a weights file or
    a user's data can't be read; all that are wrong at once.
    """
    _warn_about_prune(sweep)
    environments = {device: number_variables(device) for device in sweep.devices}
    warn_of_variables({name: value for found in environments.values() for name, value in found.items()})
    trials: dict[str, Trial] = {}
    facts: Facts = {}
    problems: dict[str, UserError] = {}
    for variant, extras in variants_of(sweep):
        resolver = _Resolver(variant, environments, facts, problems, recipe_first=bool(extras[0] and extras[0].recipes))
        excluded = Excluded(variant, resolver.recipe)
        for cell in itertools.chain(*(cells(variant, one) for one in extras)):
            if cell not in excluded:
                trial = resolver.trial(*cell)
                if trial is not None:
                    trials.setdefault(trial.trial_id, trial)
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise SpecError(f"{len(problems)} mistakes\n" + "\n".join(problems))
    if not trials:
        raise SpecError(f"sweep {sweep.name!r} has no cells: `exclude` takes all of them out")
    return tuple(trials.values())


Facts = dict[tuple[int, str], dict[str, Any]]  # (id of an axis entry, what made them) -> its facts and hashes


def _warn_about_prune(sweep: Sweep) -> None:
    """Warn where `prune` applies only to models without attention, for which it has no effect."""
    entries = [*sweep.models, *itertools.chain(*(one.models or () for one in sweep.include))]
    without = {axis.name for axis in entries if _attention(axis.name) is False}
    idle = {axis.name: axis.prune for axis in entries if axis.prune and axis.name in without}
    if sweep.prune and all(axis.name in without for axis in entries):
        idle = dict.fromkeys((axis.name for axis in entries), sweep.prune) | idle
    for name, parts in idle.items():
        warnings.warn(f"prune: {', '.join(parts)}: changes nothing for {name}, which has no attention", stacklevel=2)


def _attention(model: str) -> bool | None:
    """Whether a registered model has attention; None for others, for which it is unknown until they are built."""
    entry = registry.model.entries().get(model)
    return entry.facts.get("attention", False) if entry else None


@functools.lru_cache(maxsize=64)
def _check_task(recipe: Recipe, task: str, stages: tuple[str, ...]) -> None:
    """SpecError for an augmentation or a setting of another task than the data's, in a stage that the cells run."""
    known = AUGMENTATIONS.get(task)
    for stage in stages if known else ():
        for key, message in unused(getattr(recipe, stage), task):
            raise SpecError(f"recipe {recipe.name!r}: {stage}.{key}: {message}")
        strange = [name for name in getattr(recipe, stage).augment if name not in (known or ())]
        if strange and getattr(recipe, stage).epochs:
            names = ", ".join(known or ())
            raise SpecError(f"recipe {recipe.name!r}: {stage}.augment: found {strange[0]!r}; {task} has {names}")


class _Resolver:
    """Builds the trials of one variant of a sweep. Facts and hashes of every axis entry are computed once a sweep."""

    def __init__(
        self,
        sweep: Sweep,
        environments: Mapping[Literal["cpu", "cuda"], dict[str, str]],
        facts: Facts,
        problems: dict[str, UserError],
        recipe_first: bool = False,
    ) -> None:
        """`environments`: device -> its variables. `facts` and `problems` (message -> error): of the variants before
        this one; new ones are added to them. `recipe_first`: the variant's recipe counts before those of entries.
        """
        self._recipe_first = recipe_first
        self.sweep, self._environments, self._parts, self._problems = sweep, environments, facts, problems
        self._known: dict[tuple[Any, ...], Trial | None] = {}

    def recipe(self, dataset: DatasetAxis, model: ModelAxis, method: MethodAxis) -> Recipe:
        """The recipe of a cell: its entries' where one has its own."""
        holders = () if self._recipe_first else (method, model, dataset)
        found: Recipe = overriding("recipe", *holders, self.sweep)
        return found

    def trial(
        self, dataset: DatasetAxis, model: ModelAxis, method: MethodAxis, strategy: str, asked: Amount, seed: int
    ) -> Trial | None:
        """The trial of one cell; None where it is wrong, which is added to the problems.

        The first of each dataset, model and method is built and checked as a whole.
        """
        if method.name in registry.token.entries():
            strategy = TOKENS  # one cell for all strategies, none of which says anything of tokens
        entries, base_seed = (id(dataset), id(model), id(method)), seed if self.sweep.base_seeds == "per-seed" else 0
        if entries not in self._known:
            try:
                built = self._build(dataset, model, method, strategy, asked, seed, base_seed)
                _ = built.label, built.trial_id, built.select_key  # computes what all cells of these entries share
                self._known[entries] = built
            except UserError as error:
                self._problems.setdefault(str(error), error)
                self._known[entries] = None
        first = self._known[entries]
        if first is None or (first.importance.trained and self._wrongly_asked(method.name, asked)):
            return None
        line = self._known.get((*entries, strategy, seed))
        found = (line or first).sibling(strategy, asked.value, seed, base_seed, asked.kind)
        if line is None:
            self._known[*entries, strategy, seed] = found
            _ = found.select_key  # computes the keys that the line's other speed-ups share
        return found

    def _wrongly_asked(self, method: str, asked: Amount) -> bool:
        """Whether a trained selection can't aim at the amount, which is added to the problems."""
        if self.sweep.ratio is None and asked.kind == "macs":
            return False
        found = f"a target of {asked.kind}" if self.sweep.ratio is None else f"ratio {self.sweep.ratio:g}"
        error = SpecError(f"method {method!r} trains for a speed-up; found {found}, expected speedups")
        self._problems.setdefault(str(error), error)
        return True

    def _build(
        self,
        dataset: DatasetAxis,
        model: ModelAxis,
        method: MethodAxis,
        strategy: str,
        asked: Amount,
        seed: int,
        base_seed: int,
    ) -> Trial:
        """The trial of one cell, from its axes' entries. SpecError where they don't go together."""
        sweep, transfer = self.sweep, self.sweep.transfers[0]
        holders = (method, model, dataset, sweep)
        fields = self._once(dataset, self._dataset) | self._once(model, self._model) | self._once(method, self._method)
        attention, auto, least = fields.pop("attention"), fields.pop("auto"), fields.pop("min_images")
        trained, device = fields["importance"].trained, sweep.device_of(model.name)
        recipe = _recipe_of(self.recipe(dataset, model, method), method.name, fields, least, device, sweep.protocol)
        if sweep.protocol == "pruningbench" and not sweep.ratio and not trained:
            auto = "progressive"
        schedule, parts = overriding("schedule", *holders), overriding("prune", *holders) or DEFAULT_PARTS
        of_channels: dict[str, Any] = {
            "schedule": auto if schedule == "auto" or trained else schedule,
            "prune": () if attention is False else tuple(sorted(parts)),
            "keep": tuple(sorted(set(overriding("keep", *holders)))),
            "only": tuple(sorted(set(overriding("only", *holders)))),
            "round_to": overriding("round_to", *holders),
        }
        trial = Trial(
            **fields,
            **(of_channels if fields["kind"] == CHANNELS else {"schedule": "one-shot"}),
            strategy=strategy,
            speedup=asked.value,
            target=asked.kind,
            depth=sweep.depths[0],
            image_size=self._image_size(dataset),
            ratio=sweep.ratio,
            seed=seed,
            base_seed=base_seed,
            protocol=sweep.protocol,
            device=device,
            threads=sweep.threads_of(model.name) if device == "cpu" else None,
            processes=self._processes(model.name),
            environment=self._environments[device],
            recipe=recipe,
        )
        return trial if transfer == NONE else self._transferred(trial, transfer)

    def _image_size(self, dataset: DatasetAxis) -> int | None:
        """The sweep's image size; None where it is the dataset's own."""
        entry, size = registry.dataset.entry(dataset.name), next(iter(self.sweep.image_sizes), None)
        return None if size == own_size(entry, resolved(entry, dataset.params)) else size

    def _transferred(self, trial: Trial, transfer: Transfer) -> Trial:
        """`trial` with the weights of the sweep's source in place of its own, and a new classifier."""
        source = self.sweep.base
        assert source is not None  # the sweep is checked
        changed: dict[str, Any] = {"transfer": transfer}
        if source.dataset is None:
            sha256 = _sha256(source.file, trial.model)
            weights = Weights(kind="file", identity=sha256, path=str(source.file), new_head=True)
            return trial.model_copy(update=changed | {"weights": weights, "transfer_from": sha256})
        if why := source.misfit(trial.dataset):
            raise SpecError(f"base.from: {why}")
        data = self._dataset(DatasetAxis(name=source.dataset))
        before = trial.model_copy(update=data | {"base_seed": 0})
        weights = Weights(kind=STAGE, identity=before.base_key, new_head=True, source=before)
        return trial.model_copy(update=changed | {"weights": weights, "transfer_from": source.dataset})

    def _processes(self, model: str) -> int:
        """How many processes train a cell of `model` together; SpecError for a network that one alone can train."""
        found = self.sweep.resources.of(model).team
        known = registry.model.entries()
        if found > 1 and model in known and known[model].facts.get("one_process"):
            raise SpecError(
                f"resources: found {found} processes for a cell of {model}, expected 1: it trains with noisy copies of "
                "the boxes, which are drawn for a whole batch, on one GPU at most"
            )
        return found

    def _once(self, entry: Any, make: Any) -> dict[str, Any]:
        key = (id(entry), make.__name__)
        if key not in self._parts:
            self._parts[key] = make(entry)
        return self._parts[key]

    def _dataset(self, axis: DatasetAxis) -> dict[str, Any]:
        entry = registry.dataset.entry(axis.name)
        marks = [source] if (source := plugin_source(entry)) else []
        params = resolved(entry, axis.params)
        if found := data_fingerprint(axis.name, self.sweep.data_roots, params, quick=True):
            marks.append(found)
        return {
            "dataset": axis.name,
            "dataset_params": params,
            "dataset_version": entry.facts.get("version", 1),
            "dataset_fingerprint": ":".join(marks) or None,
            "task": entry.facts.get("task", "classification"),
        }

    def _model(self, axis: ModelAxis) -> dict[str, Any]:
        entry = registry.model.entries().get(axis.name)
        if entry is None:
            check_function(axis.name)
        return {
            "model": axis.name,
            "model_params": resolved(entry, axis.params) if entry else axis.params,
            "model_version": entry.facts.get("version", 1) if entry else 1,
            "model_source": plugin_source(entry) if entry else module_source(axis.name),
            "weights": self._weights(axis, entry.facts if entry else {}),
            "attention": _attention(axis.name),
        }

    def _weights(self, axis: ModelAxis, facts: Mapping[str, Any]) -> Weights:
        if axis.weights == "trained":
            return Weights()
        if axis.weights == "pretrained":
            identity = facts.get("pretrained", axis.name)  # `timm:NAME` is its own identity
            return Weights(kind="hub", identity=identity, new_head=axis.new_head)
        sha256 = _sha256(Path(axis.weights), axis.name)
        return Weights(kind="file", identity=sha256, path=axis.weights, new_head=axis.new_head)

    def _method(self, axis: MethodAxis) -> dict[str, Any]:
        importance = registry.CHOICE.entry(axis.importance)
        needs = importance.facts.get("needs", "weights")
        regularizer = registry.regularizer.entry(axis.regularizer) if axis.regularizer else None
        one_step = self.sweep.ratio or needs == TRAINING
        return {
            "importance": _pinned(importance, axis.params).model_copy(
                update={"seeded": _is_seeded(importance, axis.params), "trained": needs == TRAINING}
            ),
            "regularizer": _pinned(regularizer, axis.regularizer_params) if regularizer else None,
            "kind": TOKENS if importance.kind == "token" else CHANNELS,
            "min_images": importance.facts.get("min_images", 1),
            "auto": "one-shot" if one_step else "iterative" if needs_images(needs) else "progressive",
        }


def _recipe_of(
    recipe: Recipe, method: str, fields: Mapping[str, Any], least: int, device: Literal["cpu", "cuda"], protocol: str
) -> Recipe:
    """`recipe` with the speed options of a `device`; SpecError where a cell of these `fields` can't be trained by it.

    `least`: calibration images that the method needs.
    """
    if recipe.calibration_images < least:
        raise SpecError(
            f"method {method!r} needs at least {least} calibration images; "
            f"recipe {recipe.name!r} has {recipe.calibration_images}: raise its calibration_images"
        )
    trained, task = fields["importance"].trained, fields["task"]
    sparsifies = bool(fields["regularizer"] or trained)
    if sparsifies and "sparsify" not in recipe.model_fields_set:
        what = "is a trained selection" if trained else "has a regularizer"
        missing = f"the key is missing; method {method!r} {what}, which trains in that stage"
        raise SpecError(f"recipe {recipe.name!r}: sparsify: {missing}")
    _check_task(recipe, task, ("base",) * fields["weights"].trained + ("sparsify",) * sparsifies + ("finetune",))
    speed = recipe.speed.canonical(device, protocol)
    if task not in TASKS and (unused := next(iter(speed.model_dump().items()), None)):
        found = f"found {unused[1]!r}, expected none: {task} trains without these options"
        raise SpecError(f"recipe {recipe.name!r}: speed: {unused[0]}: {found}")
    return recipe.model_copy(update={"speed": speed})


def _is_seeded(importance: Entry, params: Mapping[str, Any]) -> bool:
    """Whether a criterion's scores depend on the seed: it draws numbers, or looks at calibration images."""
    if importance.kind == "token":  # counts of tokens follow from the network's sizes
        return False
    return importance.facts.get("needs", "weights") != "weights" or reads_images(importance, params)


def _pinned(entry: Any, params: Mapping[str, Any]) -> MethodRef:
    version = entry.facts.get("version", 1)
    return MethodRef(name=entry.name, params=resolved(entry, params), version=version, source=plugin_source(entry))


def _sha256(file: Path, model: str) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise UserError(f"model {model!r}: its weights {file} can't be read: {error.strerror}") from error
