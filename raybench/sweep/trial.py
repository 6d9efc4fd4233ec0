"""Frozen records of one cell: everything that its numbers depend on, and nothing else.

The canonical JSON of a `Trial` is hashed into its `trial_id`. The keys of the stages that it shares with other trials
are hashes of the fields that those stages depend on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from raybench.catalogue import SCRATCH, SMALL, TRAIN, UNTRAINED
from raybench.errors import counted
from raybench.sweep.bounds import MOST_BATCH, MOST_EPOCHS, MOST_IMAGES, MOST_NAME, Augmentation, Real, Whole
from raybench.sweep.digests import canonical, canonical_scalar, digest, hashed
from raybench.sweep.early_stop import EarlyStop
from raybench.sweep.frozen import Frozen
from raybench.sweep.kinds import CHANNELS, WHOLE, Kind
from raybench.sweep.method_label import method_label
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


class TrainRecipe(Frozen):
    """Hyperparameters of one training stage. `lr` and `weight_decay` are per step, durations in epochs."""

    epochs: Whole = Field(ge=0, le=MOST_EPOCHS)
    batch_size: Whole = Field(default=128, ge=1, le=MOST_BATCH)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Real = Field(gt=0, le=1000)
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: Real = Field(default=5e-4, ge=0, le=100)
    schedule: Literal["constant", "cosine", "multistep", "step"] = "cosine"
    milestones: tuple[Annotated[Whole, Field(ge=0, le=MOST_EPOCHS)], ...] = ()
    step_size: Whole = Field(default=30, ge=1, le=MOST_EPOCHS)
    gamma: Real = Field(default=0.1, gt=0, le=1000)
    warmup_epochs: Real = Field(default=0, ge=0, le=MOST_EPOCHS)
    min_lr: Real = Field(default=0.0, ge=0, le=1000)
    clip_grad: Real | None = Field(default=None, ge=0)  # 0 disables it, as None does
    label_smoothing: Real = Field(default=0.0, ge=0, lt=1)
    mixup: Real = Field(default=0.0, ge=0, le=100)
    cutmix: Real = Field(default=0.0, ge=0, le=100)
    randaugment: Whole = Field(default=0, ge=0, le=10)  # magnitude; 0 disables it
    random_erasing: Real = Field(default=0.0, ge=0, le=1)
    augment: tuple[Augmentation, ...] = ()
    ema: Real | None = Field(default=None, ge=0, lt=1)
    distill: Real = Field(default=0.0, ge=0, le=1)  # weight of distillation from the dense base's soft targets
    amp: bool = False
    start_scale: Real = Field(default=1.0, gt=0, le=1)  # share of the images' sides in the first epoch; 1: whole images

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        return () if self.start_scale < 1 else ("start_scale",)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """(field, message) of every setting that can't work beside the others."""
        if self.warmup_epochs > self.epochs > 0:
            yield (
                "warmup_epochs",
                f"found {self.warmup_epochs:g}, expected at most the {counted(self.epochs, 'epoch')} of this stage",
            )
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            yield "nesterov", "found true with momentum 0, expected a momentum above 0"


class Recipe(Frozen):
    """A named set of training stages, plus the number of calibration images for scoring."""

    name: str = Field(min_length=1, max_length=MOST_NAME)
    base: TrainRecipe
    sparsify: TrainRecipe = TrainRecipe(epochs=0, lr=1.0)  # left out where no method has a regularizer
    finetune: TrainRecipe
    calibration_images: Whole = Field(default=256, ge=1, le=MOST_IMAGES)
    calibration_batch: Whole = Field(default=64, ge=1, le=MOST_BATCH)
    recalibration_images: Whole = Field(default=0, ge=0, le=MOST_IMAGES)  # of batch norms after the cut; 0: none
    speed: Speed = Speed()
    early_stop: EarlyStop | None = None  # of fine-tuning; None: every cell trains to its end

    def contradictions(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """(message, (stage or block, key)) of every setting that can't work beside the others."""
        for stage in ("base", "sparsify", "finetune"):
            for key, message in getattr(self, stage).contradictions():
                yield message, (stage, key)
        if self.early_stop and not self.early_stop.rungs(self.finetune.epochs):
            found, epochs = self.early_stop.grace_period, self.finetune.epochs
            most = counted(epochs, "epoch")
            wanted = f"found {found}, expected less than the {most} of finetune: no cell would be stopped"
            yield wanted, ("early_stop", "grace_period")

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        said = {
            "speed": self.speed != Speed(),
            "recalibration_images": self.recalibration_images > 0,
            "early_stop": self.early_stop is not None,
        }
        return [name for name, speaks in said.items() if not speaks]


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
        stale = {"trial_id", "select_key"}
        if base_seed != self.base_seed:
            stale |= {"base_key", "base_identity", "sparsify_key", "pass_key"}
        if seed != self.seed and self.sparsifies:
            stale |= {"sparsify_key", "pass_key"}
        if self.importance.trained:
            stale |= {"sparsify_key", "pass_key"}
        same = (strategy, target) == (self.strategy, self.target) and target not in TIMED
        if not same or copy.selection_seed != self.selection_seed:
            stale.add("pass_key")
        for key in stale & vars(copy).keys():
            del vars(copy)[key]
        own = {name: canonical_scalar(value) for name, value in changed.items() if name != "base_seed"}
        vars(copy)["id_fields"] = self.id_fields | own
        if target == "macs":
            del vars(copy)["id_fields"]["target"]
        return copy

    @property
    def method(self) -> str:
        """`importance` or `importance+regularizer`."""
        return self.importance.name + (f"+{self.regularizer.name}" if self.regularizer else "")

    @property
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
    def trial_id(self) -> str:
        """Hash of everything that this cell's numbers depend on, with the base by its identity."""
        own = ",".join(f'"{name}":{text}' for name, text in sorted(self.id_fields.items()))
        before = "".join(f"{part}," for part in (*self._versions, SELECTION))
        return hashed(f'["cell",{before}{{{own}}},{canonical(self.base_identity)}]')

    @cached_property
    def id_fields(self) -> dict[str, str]:
        """Canonical JSON of each field that is part of the trial's own identity."""
        recipe = {"name"} if self.from_scratch else {"name", "base"}
        left_out: dict[str, Any] = {"recipe": recipe, "weights": True, "base_seed": True}
        if self.ratio is None:  # trials from before there were ratios keep their ids
            left_out["ratio"] = True
        left_out |= {name: True for name in CHOSEN if name not in self.chosen}
        dumped = self.model_dump(mode="json", exclude=left_out)
        return {name: canonical(value) for name, value in dumped.items()}

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
    def _versions(self) -> tuple[int, ...]:
        """Version of training and, under `pruningbench`, of its own rules; keys of selections contain the base's."""
        return (TRAINING, PUBLISHED) if self.protocol == "pruningbench" else (TRAINING,)

    @cached_property
    def base_identity(self) -> str:
        """Key of the base stage for a trained base; otherwise the SHA-256 of the weights file or the hub revision."""
        return self.base_key if self.weights.trained else f"{self.weights.kind}:{self.weights.identity}"

    @cached_property
    def base_key(self) -> str:
        """Key of the base stage (trained weights, or loaded ones, and their evaluation)."""
        data = {"dataset", "dataset_params", "dataset_version", "dataset_fingerprint", "device", "threads"}
        data |= {"environment", "processes"}
        model = {"model", "model_params", "model_version", "model_source"}
        fields = data | model | {"task", "protocol", "weights"}
        own = self.model_dump(mode="json", include=fields)
        if self.weights.trained:
            own |= {"recipe": self.recipe.base.model_dump(mode="json"), "seed": self.base_seed, **self._changed_speed}
        return digest("base", *self._versions, own)

    @cached_property
    def sparsify_key(self) -> str | None:
        """Key of the sparsifying stage, None for a method without one. A trained selection aims at one speed-up."""
        if not self.sparsifies:
            return None
        trained = {"strategy", "speedup", "target", "round_to"}
        own = self.model_dump(mode="json", include={"importance", *trained}) if self.importance.trained else {}
        own |= {
            "regularizer": self.regularizer and self.regularizer.model_dump(mode="json"),
            "recipe": self.recipe.sparsify.model_dump(mode="json"),
            "seed": self.seed,
            "prune": self.prune,
            **self.chosen,
            **self._changed_speed,
        }
        return digest("sparsify", TRAINING, own, self.base_key)

    @cached_property
    def pass_key(self) -> str:
        """Key of the selection pass that this trial shares with those that differ in speed-up (or training) only."""
        fields = {"importance", "strategy", "schedule", "prune", "round_to", "protocol"}
        fields |= self.chosen.keys()
        own = self.model_dump(mode="json", include=fields) | {"seed": self.selection_seed}
        own |= {"images": self.recipe.calibration_images, "batch": self.recipe.calibration_batch}
        own |= {"target": self.target} if self.target != "macs" else {}
        own |= {"depth": self.depth} if self.shallower else {}
        own |= {} if self.image_size is None else {"image_size": self.image_size}
        own |= {"transfer": self.transfer} if self.prunes_first else {}
        own |= {self.target: self.speedup} if self.target in TIMED else {}  # one out of reach stops no other
        return digest("select", SELECTION, own, self.sparsify_key or self.base_key)

    @cached_property
    def select_key(self) -> str:
        """Key of the selection for this speed-up. It doesn't depend on the sweep's other speed-ups."""
        return digest("cut", self.pass_key, self.speedup if self.ratio is None else {"ratio": self.ratio})
