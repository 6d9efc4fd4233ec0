"""One result row as a frozen record; column names, types and the values that its status requires are checked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypeGuard

from raybench.errors import RaybenchError, nearest
from raybench.results.columns import BY_NAME, COLUMNS, DEFAULTS, SCHEMA_VERSION, Column
from raybench.sweep.digests import digest
from raybench.sweep.target import ASKED
from raybench.sweep.trial import Trial

__all__ = ["BY_NAME", "COLUMNS", "SCHEMA_VERSION", "Column", "Record", "RecordError"]


AVERAGED = ("seed", "base_seed", "speedup", "target")  # fields of a trial that its config_id is not of


class RecordError(RaybenchError):
    """An invalid row: an unknown column, a value of the wrong type, or a value missing that its status requires.

    Example:
        >>> Record({"status": "ok", "speed_up": 2.0})
        Traceback (most recent call last):
            ...
        raybench.results.schema.RecordError: a result row has no column 'speed_up'. Did you mean 'speedup'? ...
    """


@dataclass(frozen=True)
class Record(Mapping[str, Any]):
    """One row of table `trials`: a mapping over every column, None where there is no value.

    Args:
        values_: column name -> value; columns left out are None.

    Raises:
        RecordError: a column is unknown, a value has the wrong type, or one that the status requires is missing.

    Example:
        >>> from raybench.results.schema import Record
        >>> Record({"status": "done"})
        Traceback (most recent call last):
            ...
        raybench.results.schema.RecordError: status: found 'done', expected ok, failed or skipped
    """

    values_: Mapping[str, Any]

    def __post_init__(self) -> None:
        values = {name: _value(_column(name), value) for name, value in self.values_.items()}
        values |= {name: default for name, default in DEFAULTS.items() if values.get(name) is None}
        _check_needed(values)
        values["row_sha256"] = row_sha256(values)
        object.__setattr__(self, "values_", MappingProxyType({c.name: values.get(c.name) for c in COLUMNS}))

    def __getitem__(self, name: str) -> Any:
        return self.values_[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def replaced(self, **values: Any) -> Record:
        """A copy with other values in some columns.

        Args:
            **values: column name -> new value.

        Returns:
            The new record.

        Raises:
            RecordError: as for a new record.
        """
        return Record({**self.values_, **values})

    @classmethod
    def of_trial(cls, trial: Trial, *, status: str = "ok", **values: Any) -> Record:
        """The row of a trial.

        Args:
            trial: source of the identity columns.
            status: ok, failed or skipped.
            **values: all other columns. `delta` and `params_kept` are derived if left out; `provenance` may be a
                dataclass, `kept` a mapping group -> kept unit indices.

        Returns:
            The record.

        Raises:
            RecordError: a column is unknown, a value has the wrong type, or one that the status requires is missing.
        """
        return cls(identity(trial) | {"status": status} | _derived(values) | _serialized(values))

    @classmethod
    def failed(
        cls,
        trial: Trial,
        *,
        stage: str,
        error_type: str,
        error_message: str,
        traceback_path: str | None = None,
        attempt: int = 1,
        **values: Any,
    ) -> Record:
        """The row of a failed attempt.

        Args:
            trial: the trial that failed.
            stage: name of the stage that failed.
            error_type: class of the exception.
            error_message: its text.
            traceback_path: key of the full traceback in the storage.
            attempt: number of the attempt, from 1.
            **values: columns known before the failure.

        Returns:
            The record.
        """
        error = {"stage": stage, "error_type": error_type, "error_message": error_message}
        where = {"traceback_path": traceback_path, "attempt": attempt}
        return cls.of_trial(trial, status="failed", **error, **where, **values)

    @classmethod
    def skipped(cls, trial: Trial, reason: str) -> Record:
        """The row of a cell that can't be run.

        Args:
            trial: the trial.
            reason: why it can't be run.

        Returns:
            The record.
        """
        return cls.of_trial(trial, status="skipped", reason=reason)


def row_sha256(row: Mapping[str, Any]) -> str:
    """Checksum of a row: the SHA-256 of its columns as canonical JSON.

    Left out are itself, columns without a value, and the defaults that older rows are read with.

    Args:
        row: column name -> value, as in a record or as read from a file.

    Returns:
        64 hex digits. A column that is added later does not change it.

    Example:
        >>> row_sha256({"seed": 0, "ratio": None}) == row_sha256({"seed": 0})
        True
    """
    own = _filled({name: value for name, value in row.items() if DEFAULTS.get(name) != value and name != "row_sha256"})
    return hashlib.sha256(json.dumps(own, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _filled(value: Any) -> Any:
    """`value` as dicts and lists, without the keys that have no value."""
    if isinstance(value, Mapping):
        return {name: _filled(inner) for name, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def identity(trial: Trial) -> dict[str, Any]:
    """The columns that follow from the trial alone.

    Args:
        trial: a resolved trial.

    Returns:
        Column name -> value: ids, axes of the grid, stage keys and the trial as JSON.

    Example:
        >>> from raybench.sweep.recipe import Recipe, TrainRecipe
        >>> from raybench.sweep.trial import MethodRef
        >>> stage = TrainRecipe(epochs=1, lr=0.1)
        >>> recipe = Recipe(name="short", base=stage, sparsify=stage, finetune=stage)
        >>> criterion = MethodRef(name="random")
        >>> trial = Trial(dataset="digits", model="my-net", importance=criterion, speedup=2.0, recipe=recipe)
        >>> identity(trial)["method"], identity(trial)["speedup_target"]
        ('random', 2.0)
    """
    same = (
        "dataset", "task", "model", "kind", "method", "strategy", "protocol", "schedule", "seed", "base_seed",
        "round_to", "processes", "depth", "image_size",
    )  # fmt: skip
    return {name: getattr(trial, name) for name in same} | {
        "trial_id": trial.trial_id,
        "config_id": config_id(trial),
        "importance": trial.importance.name,
        "regularizer": trial.regularizer.name if trial.regularizer else None,
        "recipe": trial.recipe.name,
        "transfer": trial.transfer if trial.transfer_from else None,
        "transfer_from": trial.transfer_from,
        **dict(zip(ASKED, trial.asked, strict=True)),
        "base_key": trial.base_key,
        "sparsify_key": trial.sparsify_key,
        "select_key": trial.select_key,
        "trial": json.dumps(trial.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False),
    }


def config_id(trial: Trial) -> str:
    """Hash of a trial without seeds, speed-up and the recipe's name: cells with equal config_id are averaged.

    Args:
        trial: a resolved trial.

    Returns:
        16 hex digits.

    Example:
        >>> from raybench.sweep.recipe import Recipe, TrainRecipe
        >>> from raybench.sweep.trial import MethodRef
        >>> stage = TrainRecipe(epochs=1, lr=0.1)
        >>> recipe = Recipe(name="short", base=stage, sparsify=stage, finetune=stage)
        >>> criterion = MethodRef(name="random")
        >>> trial = Trial(dataset="digits", model="my-net", importance=criterion, speedup=2.0, recipe=recipe)
        >>> config_id(trial) == config_id(trial.model_copy(update={"seed": 1, "speedup": 4.0}))
        True
    """
    own = trial.model_dump(mode="json", exclude=dict.fromkeys(AVERAGED, True) | {"recipe": {"name"}})
    return digest("config", own)


def _derived(values: Mapping[str, Any]) -> dict[str, float]:
    """`delta` and `params_kept`; left out where their terms are absent or no finite numbers, which is checked later."""
    base, final, params, dense = (values.get(n) for n in ("metric_base", "metric_final", "params", "params_base"))
    derived = {}
    if _finite(base) and _finite(final):
        derived["delta"] = final - base
    if _finite(params) and _finite(dense) and dense:
        derived["params_kept"] = params / dense
    return derived


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and math.isfinite(value)


def _serialized(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with dataclasses as dicts and `kept` as canonical JSON."""
    plain = {k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for k, v in values.items()}
    if isinstance(plain.get("kept"), Mapping):
        kept = {group: [int(unit) for unit in units] for group, units in plain["kept"].items()}
        plain["kept"] = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return plain


def _column(name: str) -> Column:
    if name not in BY_NAME:
        raise RecordError(
            f"a result row has no column {name!r}.{nearest(name, BY_NAME)} See raybench/results/columns.py"
        )
    return BY_NAME[name]


def _value(column: Column, value: Any, where: str = "") -> Any:
    """`value` as a Python object of the column's type; RecordError when it has another type."""
    path = where + column.name
    if value is None:
        return None
    if column.type == "struct":
        return _struct(column, value, path)
    if column.type == "list":
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
            raise RecordError(f"{path}: found {type(value).__name__}, expected a sequence of mappings")
        return tuple(_struct(column, entry, f"{path}[{i}]") for i, entry in enumerate(value))
    kinds: dict[str, type] = {"string": str, "bool": bool, "int": Integral, "float": Real}
    fits = isinstance(value, kinds[column.type])
    if not fits or (isinstance(value, bool) and column.type != "bool"):  # to Python, True is an int
        raise RecordError(f"{path}: found {value!r} ({type(value).__name__}), expected {column.type}")
    if column.type == "float":
        if not where and not math.isfinite(value):
            raise RecordError(f"{path}: found {value!r}, expected a finite number; leave it out and give the reason")
        return float(value)
    return int(value) if column.type == "int" else value


def _struct(column: Column, value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{path}: found {type(value).__name__}, expected a mapping")
    names = [f.name for f in column.fields]
    for name in value:
        if name not in names:
            raise RecordError(f"{path} has no field {name!r}.{nearest(name, names)} Known: {', '.join(names)}")
    return MappingProxyType({f.name: _value(f, value.get(f.name), f"{path}.") for f in column.fields})


def _check_needed(values: Mapping[str, Any]) -> None:
    status = values.get("status")
    if status not in ("ok", "failed", "skipped"):
        raise RecordError(f"status: found {status!r}, expected ok, failed or skipped")
    missing = [c.name for c in COLUMNS if status in c.needed and values.get(c.name) is None]
    if status == "ok" and values.get("timing_reason") is None:
        timings = ["latency_ms", "step_time_s"] + ["reg_time_s"] * (values.get("regularizer") is not None)
        missing += [f"{name} (or timing_reason)" for name in timings if values.get(name) is None]
    if missing:
        raise RecordError(f"row {values.get('trial_id')} has status {status!r} but no {', '.join(missing)}")
