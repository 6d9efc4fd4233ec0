"""Frozen records of one cell: everything that its numbers depend on, and nothing else.

The canonical JSON of a `Trial` is hashed into its `trial_id`. The keys of the stages that it shares with other trials
are hashes of the fields that those stages depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raybench.catalogue import SCRATCH, SMALL, TRAIN, UNTRAINED
from raybench.sweep.digests import Form, canonical, canonical_scalar, digest_of
from raybench.sweep.frozen import Frozen
from raybench.sweep.kinds import CHANNELS, WHOLE, Kind
from raybench.sweep.method_label import method_label
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.speed import Speed
from raybench.sweep.target import TARGETS, TIMED, TargetKind
from raybench.sweep.weights import NONE, PRUNED, Transfer, Weights

# Versions of the shared code; methods, models and datasets have versions of their own. Raising one changes the keys,
# so that results of older code are not reused.
TRAINING = 1  # training loop, augmentation, evaluation
SELECTION = 2  # grouping, choice of channels, surgery, refits; raise it when the golden selections in tests change
PUBLISHED = 1  # what only protocol pruningbench does: evidence before every step, best sparse epoch, full batches

CHOSEN = ("keep", "only")  # fields that are left out of ids and keys where they are empty
DEFAULT_PARTS = ("embed", "head-dim", "mlp")  # pruned in attention models; MLPs alone can't reach 4x, heads are coarse

Scalar = bool | int | float | str


class MethodRef(Frozen):
    """A criterion or regularizer with its resolved parameters; `version` or `source` identifies its code."""

    name: str
    params: dict[str, Scalar] = Field(default={})
    version: int = 1
    source: str | None = None  # SHA-256 of the file, for a plug-in
    seeded: bool = True  # whether what it computes depends on the trial's seed
    trained: bool = False  # whether it is a trained selection; left out of ids and keys where it isn't

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        return () if self.trained else ("trained",)


class Trial(Frozen):
    """One cell of the grid, fully resolved. The same trial on the same device gives the same numbers."""

    dataset: str
    dataset_params: dict[str, Scalar] = Field(default={})
    dataset_version: int = 1  # of the registered code
    dataset_fingerprint: str | None = None  # for a user's data: hash of its sorted (path, size) list
    model: str
    model_params: dict[str, Scalar] = Field(default={})
    model_version: int = 1
    model_source: str | None = None  # SHA-256 of a plug-in model's file
    task: str = "classification"
    weights: Weights = Weights()
    importance: MethodRef
    kind: Kind = CHANNELS  # what the method removes; left out of ids where it is channels
    regularizer: MethodRef | None = None
    strategy: str = "protected-global"
    speedup: float = Field(gt=0)  # how much is asked of `target`: base / pruned, above 1, or milliseconds
    transfer: Transfer = NONE  # whether the weights are of other data; left out of ids and keys where they aren't
    transfer_from: str | None = None  # what they are of: a dataset's name, or the file's SHA-256
    target: TargetKind = "macs"  # left out of ids and keys where it is the MACs
    depth: float = Field(default=WHOLE, gt=0, le=1)  # share of the removable blocks that stays; left out where all do
    image_size: int | None = Field(default=None, ge=1)  # from the selection on; None, left out: the dataset's own
    seed: int = 0
    base_seed: int = 0
    protocol: Literal["raybench", "pruningbench"] = "raybench"
    schedule: Literal["progressive", "iterative", "one-shot"] = "progressive"
    prune: tuple[str, ...] = ()  # which parts of attention models; empty for others
    keep: tuple[str, ...] = ()  # layers that keep their width, by name or glob
    only: tuple[str, ...] = ()  # layers outside which nothing shrinks; empty: all may
    round_to: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = Field(default=1, ge=1)  # on a CPU, where they change sums; None on a GPU
    processes: int = Field(default=1, ge=1)  # that train together; left out of ids and keys where it is one
    environment: dict[str, str] = Field(default={})  # variables that change numbers; left out where none is set
    ratio: float | None = Field(default=None, gt=0, lt=1)  # share of channels to remove in one step
    recipe: Recipe

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        said = {
            "kind": self.kind != CHANNELS,
            "environment": bool(self.environment),
            "processes": self.processes > 1,
            "target": self.target != "macs",
            "depth": self.shallower,
            "image_size": self.image_size is not None,
            "transfer": self.transfer != NONE,
            "transfer_from": self.transfer_from is not None,
        }
        return [name for name, speaks in said.items() if not speaks]

    @model_validator(mode="after")
    def _above_one(self) -> Self:
        """Refuse a speed-up that is none."""
        if self.target != "latency_ms" and not self.speedup > 1:
            raise ValueError(f"speedup: found {self.speedup:g}, expected a number above 1")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, validated, with new keys."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})))

    def sibling(self, strategy: str, speedup: float, seed: int, base_seed: int, target: TargetKind = "macs") -> Self:
        """A copy with other values of these axes, which the sweep has validated; for grids of many cells.

        Keys that don't depend on a changed value are not computed again.
        """
        changed = {"strategy": strategy, "speedup": speedup, "seed": seed, "base_seed": base_seed, "target": target}
        copy = super().model_copy(update=changed)
        stale = {"trial_id", "id_fields", "select_key"}
        if base_seed != self.base_seed:
            stale |= {"base_key", "base_identity", "sparsify_key", "pass_key"}
        if (seed != self.seed and self.sparsifies) or self.importance.trained:
            stale |= {"sparsify_key", "pass_key"}
        same = (strategy, target) == (self.strategy, self.target) and target not in TIMED
        if not same or copy.selection_seed != self.selection_seed:
            stale.add("pass_key")
        for key in stale & vars(copy).keys():
            del vars(copy)[key]
        return copy

    @property
    def method(self) -> str:
        """`importance` or `importance+regularizer`."""
        return self.importance.name + (f"+{self.regularizer.name}" if self.regularizer else "")

    @cached_property
    def label(self) -> str:
        """The method with its parameters, as it is typed: ``cp(points=20)+group-norm``."""
        return method_label(self.model_dump(include={"importance", "regularizer"}))

    @property
    def from_scratch(self) -> bool:
        """Whether the pruned network gets new weights, which the base stage's recipe trains: a baseline."""
        return self.importance.params.get(TRAIN) in (SCRATCH, SMALL)

    @property
    def prunes_first(self) -> bool:
        """Whether channels are chosen in the network of the source data, before it learns the target's."""
        return self.transfer == PRUNED

    @property
    def shallower(self) -> bool:
        """Whether whole blocks are removed before channels are chosen."""
        return self.depth < WHOLE

    @property
    def at_own_size(self) -> Trial:
        """The trial as base and sparsifying stage see it: with images of the dataset's own size."""
        return self if self.image_size is None else self.model_copy(update={"image_size": None})

    @property
    def is_small(self) -> bool:
        """Whether a smaller dense network of the same family stands in place of a pruned one: a baseline."""
        return self.importance.params.get(TRAIN) == SMALL

    @property
    def sparsifies(self) -> bool:
        """Whether there is a sparsifying stage: of a regularizer, or of a trained selection."""
        return self.regularizer is not None or self.importance.trained

    @property
    def tuning(self) -> TrainRecipe:
        """How the pruned network is trained."""
        if self.importance.params.get(TRAIN) == UNTRAINED:
            return TrainRecipe(**self.recipe.finetune.model_dump() | {"epochs": 0})
        if self.is_small or self.prunes_first:  # as long as the base and the pruned network of others together
            epochs = self.recipe.base.epochs + self.recipe.finetune.epochs
            return TrainRecipe(**self.recipe.base.model_dump() | {"epochs": epochs})
        return self.recipe.base if self.from_scratch else self.recipe.finetune

    @property
    def stages(self) -> tuple[TrainRecipe, ...]:
        """The training stages that the cell needs, in order."""
        base = (self.recipe.base,) if self.weights.trained else ()
        sparsify = (self.recipe.sparsify,) if self.sparsifies else ()
        return (*base, *sparsify, self.tuning)

    @property
    def speedup_target(self) -> float | None:
        """The speed-up asked for; None with another target, or with a ratio (then `speedup` is only a label)."""
        return self.speedup if self.ratio is None and self.target == "macs" else None

    @property
    def asked(self) -> tuple[float | None, ...]:
        """The asked amount as the columns ASKED have it."""
        others = (self.speedup if self.target == kind else None for kind in TARGETS[1:])
        return (self.speedup_target, self.ratio, *others)

    @property
    def selection_seed(self) -> int:
        """Seed of scoring and calibration; 0 where scores depend on weights alone: all seeds share the selection."""
        return self.seed if self.importance.seeded else 0

    @cached_property
    def _forms(self) -> dict[str, Form]:
        """Canonical JSON of what ids and keys are made of, by key and target; siblings share and fill it."""
        return {}

    def _own(self, key: str, fields: Callable[[], Mapping[str, Any]], **gaps: Scalar) -> str:
        """Canonical JSON of the fields that `key` depends on. `gaps`: those in which siblings may differ."""
        form = self._forms.get(f"{key} {self.target}")
        if form is None:
            form = self._forms[f"{key} {self.target}"] = Form.of(fields(), gaps)
        return form.filled(gaps)

    @cached_property
    def trial_id(self) -> str:
        """Hash of everything that this cell's numbers depend on, with the base by its identity."""
        own = self._own("cell", self._id_dump, strategy=self.strategy, speedup=self.speedup, seed=self.seed)
        base = f'"{self.base_identity}"' if self.weights.trained else canonical(self.base_identity)
        return digest_of('"cell"', *self._versions, str(SELECTION), own, base)

    @cached_property
    def id_fields(self) -> dict[str, str]:
        """Canonical JSON of each field that is part of the trial's own identity."""
        return {name: canonical(value) for name, value in self._id_dump().items()}

    def _id_dump(self) -> dict[str, Any]:
        """The fields that are part of the trial's own identity, as plain data."""
        recipe = {"name"} if self.from_scratch else {"name", "base"}
        left_out: dict[str, Any] = {"recipe": recipe, "weights": True, "base_seed": True}
        if self.ratio is None:  # trials from before there were ratios keep their ids
            left_out["ratio"] = True
        left_out |= {name: True for name in CHOSEN if name not in self.chosen}
        return self.model_dump(mode="json", exclude=left_out)

    @property
    def chosen(self) -> dict[str, tuple[str, ...]]:
        """`keep` and `only`, where they name layers."""
        return {name: value for name in CHOSEN if (value := getattr(self, name))}

    @property
    def speed(self) -> Speed:
        """How training computes, with the device's defaults filled in."""
        return self.recipe.speed.filled(self.device, self.protocol)

    @property
    def _changed_speed(self) -> dict[str, Any]:
        """What of `speed` isn't the device's default, as a part of keys; empty where all is."""
        return {"speed": found} if (found := self.recipe.speed.model_dump(mode="json")) else {}

    @property
    def _versions(self) -> tuple[str, ...]:
        """Version of training and, under `pruningbench`, of its own rules; keys of selections contain the base's."""
        return (str(TRAINING), str(PUBLISHED)) if self.protocol == "pruningbench" else (str(TRAINING),)

    @cached_property
    def base_identity(self) -> str:
        """Key of the base stage for a trained base; otherwise the SHA-256 of the weights file or the hub revision."""
        return self.base_key if self.weights.trained else f"{self.weights.kind}:{self.weights.identity}"

    @cached_property
    def base_key(self) -> str:
        """Key of the base stage (trained weights, or loaded ones, and their evaluation)."""
        seed = {"seed": self.base_seed} if self.weights.trained else {}
        return digest_of('"base"', *self._versions, self._own("base", self._base_dump, **seed))

    def _base_dump(self) -> dict[str, Any]:
        """What the base stage depends on, without its seed."""
        data = {"dataset", "dataset_params", "dataset_version", "dataset_fingerprint", "device", "threads"}
        data |= {"environment", "processes"}
        model = {"model", "model_params", "model_version", "model_source"}
        own = self.model_dump(mode="json", include=data | model | {"task", "protocol", "weights"})
        if self.weights.trained:
            own |= {"recipe": self.recipe.base.model_dump(mode="json"), **self._changed_speed}
        return own

    @cached_property
    def sparsify_key(self) -> str | None:
        """Key of the sparsifying stage, None for a method without one. A trained selection aims at one speed-up."""
        if not self.sparsifies:
            return None
        aim: dict[str, Scalar] = {"strategy": self.strategy, "speedup": self.speedup} if self.importance.trained else {}
        own = self._own("sparsify", self._sparsify_dump, seed=self.seed, **aim)
        return digest_of('"sparsify"', str(TRAINING), own, f'"{self.base_key}"')

    def _sparsify_dump(self) -> dict[str, Any]:
        """What the sparsifying stage depends on beside its base, without seed and aim."""
        trained = {"importance", "target", "round_to"} if self.importance.trained else set()
        return self.model_dump(mode="json", include=trained) | {
            "regularizer": self.regularizer and self.regularizer.model_dump(mode="json"),
            "recipe": self.recipe.sparsify.model_dump(mode="json"),
            "prune": self.prune,
            **self.chosen,
            **self._changed_speed,
        }

    @cached_property
    def pass_key(self) -> str:
        """Key of the selection pass that this trial shares with those that differ in speed-up (or training) only."""
        aim: dict[str, Scalar] = {"strategy": self.strategy, "seed": self.selection_seed}
        aim |= {self.target: self.speedup} if self.target in TIMED else {}  # one out of reach stops no other
        own = self._own("select", self._pass_dump, **aim)
        return digest_of('"select"', str(SELECTION), own, f'"{self.sparsify_key or self.base_key}"')

    def _pass_dump(self) -> dict[str, Any]:
        """What a selection pass depends on beside the network that it looks at, without seed, strategy and time."""
        own = self.model_dump(mode="json", include={"importance", "schedule", "prune", "round_to", "protocol"})
        own |= self.chosen | {"images": self.recipe.calibration_images, "batch": self.recipe.calibration_batch}
        own |= {"target": self.target} if self.target != "macs" else {}
        own |= {"depth": self.depth} if self.shallower else {}
        own |= {} if self.image_size is None else {"image_size": self.image_size}
        return own | ({"transfer": self.transfer} if self.prunes_first else {})

    @cached_property
    def select_key(self) -> str:
        """Key of the selection for this speed-up. It doesn't depend on the sweep's other speed-ups."""
        amount = canonical_scalar(self.speedup) if self.ratio is None else canonical({"ratio": self.ratio})
        return digest_of('"cut"', f'"{self.pass_key}"', amount)
