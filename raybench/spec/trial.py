"""The frozen records of one cell: everything its numbers depend on, and nothing else.

A `Trial` is a pure value. Its canonical JSON is hashed into `trial_id`; the keys of the stages that
it shares with other trials are hashes of the parts that those stages depend on (BLUEPRINT 5c).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

ID_LENGTH = 16  # hex digits of the SHA-256 that are kept: 64 bits, no collision below a billion cells
# Versions of the code that no name in a sweep stands for; methods, models and datasets have their own. Raising one
# makes new keys, so that no store hands out what older code made.
TRAINING = 1  # training loop, augmentation, evaluation
SELECTION = 2  # grouping, choice of channels, surgery, refits; tests hold the golden selections to it

Scalar = bool | int | float | str


class Frozen(BaseModel):
    """Base of every record that crosses a wall: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodRef(Frozen):
    """A criterion or regularizer with its resolved parameters; `version` or `source` pins its code."""

    name: str
    params: dict[str, Scalar] = {}
    version: int = 1
    source: str | None = None  # SHA-256 of the file, for a plug-in


class TrainRecipe(Frozen):
    """How one training stage is run. `lr` and `weight_decay` are per step, durations in epochs."""

    epochs: int = Field(ge=0)
    batch_size: int = Field(128, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine", "multistep", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    step_size: int = 30
    gamma: float = 0.1
    warmup_epochs: float = Field(0, ge=0)
    min_lr: float = 0.0
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: int = 0  # magnitude, 0 switches it off
    random_erasing: float = 0.0
    augment: tuple[str, ...] = ()  # of: shift, flip, crop, resized-crop
    ema: float | None = None
    distill: float = 0.0  # weight of the dense base's soft targets
    amp: bool = False


class Recipe(Frozen):
    """One named set of training stages, plus what scoring may look at."""

    name: str
    base: TrainRecipe
    sparsify: TrainRecipe
    finetune: TrainRecipe
    calibration_images: int = Field(256, ge=1)
    calibration_batch: int = Field(64, ge=1)


class Weights(Frozen):
    """Where the dense base comes from. `trained` means: by the recipe's base stage."""

    kind: Literal["trained", "file", "hub"] = "trained"
    identity: str = ""  # SHA-256 of the file, or `name@revision` of the hub
    path: str | None = Field(None, exclude=True)  # where the file lies here; not part of the identity


class Trial(Frozen):
    """One cell of the grid, fully resolved. Same Trial, same device: same Record, timings aside."""

    dataset: str
    dataset_params: dict[str, Scalar] = {}
    dataset_version: int = 1  # of the code behind its name, as a method's
    dataset_fingerprint: str | None = None  # of a user's data: sorted (path, size) list
    model: str
    model_params: dict[str, Scalar] = {}
    model_version: int = 1
    model_source: str | None = None  # SHA-256 of a plug-in model's file
    task: str = "classification"
    weights: Weights = Weights()
    importance: MethodRef
    regularizer: MethodRef | None = None
    strategy: str = "protected-global"
    speedup: float = Field(gt=1)
    seed: int = 0
    base_seed: int = 0
    protocol: Literal["raybench", "pruningbench"] = "raybench"
    schedule: Literal["progressive", "iterative", "one-shot"] = "progressive"
    prune: tuple[str, ...] = ()  # which parts of attention models; empty for others
    round_to: int = 1
    ratio: float | None = Field(None, gt=0, lt=1)  # share of units that one step removes, whatever speed-up it gives
    recipe: Recipe

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A trial with `update` in place of some fields, validated; its keys are worked out anew."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})))

    @property
    def method(self) -> str:
        """`importance` or `importance+regularizer`, as people type it."""
        return self.importance.name + (f"+{self.regularizer.name}" if self.regularizer else "")

    @property
    def speedup_target(self) -> float | None:
        """The speed-up asked for; None where a ratio was, beside which `speedup` is only a name."""
        return self.speedup if self.ratio is None else None

    @cached_property
    def trial_id(self) -> str:
        """Hash of everything this cell's numbers depend on; the base is in it by its identity."""
        left_out = {"recipe": {"name", "base"}, "weights": True, "base_seed": True, "ratio": self.ratio is None}
        own = self.model_dump(mode="json", exclude={key: what for key, what in left_out.items() if what})
        return digest("cell", TRAINING, SELECTION, own, self.base_identity)

    @cached_property
    def base_identity(self) -> str:
        """The base stage's key when we train it; the file's SHA-256 or hub revision when we don't."""
        return self.base_key if self.weights.kind == "trained" else f"{self.weights.kind}:{self.weights.identity}"

    @cached_property
    def base_key(self) -> str:
        """Key of the base stage (trained weights, or loaded ones, and their evaluation)."""
        data = {"dataset", "dataset_params", "dataset_version", "dataset_fingerprint"}
        model = {"model", "model_params", "model_version", "model_source"}
        fields = data | model | {"task", "protocol", "weights"}
        own = self.model_dump(mode="json", include=fields)
        if self.weights.kind == "trained":
            own |= {"recipe": self.recipe.base.model_dump(mode="json"), "seed": self.base_seed}
        return digest("base", TRAINING, own)

    @cached_property
    def sparsify_key(self) -> str | None:
        """Key of the sparsifying stage, None for a method without a regularizer."""
        if self.regularizer is None:
            return None
        own = {
            "regularizer": self.regularizer.model_dump(mode="json"),
            "recipe": self.recipe.sparsify.model_dump(mode="json"),
            "seed": self.seed,
            "prune": self.prune,
        }
        return digest("sparsify", TRAINING, own, self.base_key)

    @cached_property
    def pass_key(self) -> str:
        """Key of the selection pass that this trial shares with those that differ in speed-up (or training) only."""
        fields = {"importance", "strategy", "schedule", "prune", "round_to", "seed", "protocol"}
        own = self.model_dump(mode="json", include=fields)
        own |= {"images": self.recipe.calibration_images, "batch": self.recipe.calibration_batch}
        return digest("select", SELECTION, own, self.sparsify_key or self.base_key)

    @cached_property
    def select_key(self) -> str:
        """Key of the selection for this speed-up. It never depends on which other speed-ups were asked for."""
        return digest("cut", self.pass_key, self.speedup if self.ratio is None else {"ratio": self.ratio})


def digest(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the parts' canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
