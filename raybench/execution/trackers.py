"""Experiment trackers: each cell that ends well becomes a run of wandb, MLflow or TensorBoard, with its curve."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from raybench.errors import UserError
from raybench.execution.driver import Run, Watcher
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome, label_of
from raybench.results.store import Store

FIGURES = (
    "metric_base", "metric_pruned", "metric_final", "delta", "speedup", "macs_base", "macs", "params_base", "params",
    "params_kept", "latency_base_ms", "latency_ms", "throughput", "step_time_s", "reg_time_s",
)  # fmt: skip
Row = Mapping[str, Any]
Log = Callable[[str, str, Row], None]  # (sweep, label, row of a finished cell)


def tracked(name: str | None, watcher: Watcher) -> Watcher:
    """`watcher`, whose finished cells are also sent to the tracker `name`, a key of TRACKERS; itself for None.

    Raises:
        UserError: the tracker is not installed.
    """
    return watcher if name is None else Tracked(watcher, TRACKERS[name])


class Tracked(Watcher):
    """Passes every event on, and logs the row of each cell that ended well. A tracker's first failure is printed."""

    def __init__(self, inner: Watcher, start: Callable[[Path], Log]) -> None:
        self._inner, self._start = inner, start
        start(Path())  # is it installed?
        self._run: Run | None = None
        self._log: Log | None = None

    def begin(self, run: Run) -> None:
        """Start the tracker beside the storage, or here where that is no folder."""
        if self._run is not run:
            url = run.storage.url
            self._run, self._log = run, self._start(Path() if "://" in url else Path(url))
        self._inner.begin(run)

    def started(self, unit: Unit) -> None:
        """Pass it on."""
        self._inner.started(unit)

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """Pass it on, and log a cell."""
        self._inner.ended(unit, outcome)
        if unit.kind != "cell" or outcome.status != "ok" or self._run is None or self._log is None:
            return
        try:
            self._log(self._run.sweep, label_of(unit), Store(self._run.storage).record(unit.key))
        except Exception as error:  # a tracker may raise anything, and no result depends on it
            self._log = None
            self._inner.say(f"tracking ends: {type(error).__name__}: {error}; the results are in the storage")

    def checking(self) -> None:
        """Pass it on."""
        self._inner.checking()

    def say(self, text: str) -> None:
        """Pass it on."""
        self._inner.say(text)

    def left(self, unit: Unit, stage_s: float, epoch_s: float) -> float | None:
        """Pass it on."""
        return self._inner.left(unit, stage_s, epoch_s)

    def recover(self) -> None:
        """Pass it on."""
        self._inner.recover()

    def close(self) -> None:
        """Pass it on."""
        self._inner.close()


def figures(row: Row) -> dict[str, float]:
    """The figures of a cell that are known."""
    return {name: float(row[name]) for name in FIGURES if row.get(name) is not None}


def settings(row: Row) -> dict[str, str | int | float | bool]:
    """The resolved trial as flat settings: ``recipe.finetune.lr``."""

    def flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from flat(inner, f"{prefix}.{name}" if prefix else str(name))
        elif value is not None:
            yield prefix, value if isinstance(value, (str, int, float, bool)) else json.dumps(value)

    return dict(flat(json.loads(row["trial"]), ""))


def curve(row: Row) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, values) of each epoch; the stages follow each other, and each has names of its own."""
    for step, entry in enumerate(row.get("curve") or ()):
        values = {"loss": entry["train_loss"], "metric": entry["metric"], "lr": entry["lr"]}
        yield step, {f"{entry['stage']}/{name}": float(v) for name, v in values.items() if v is not None}


def _module(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"--track {extra}: needs {name}: pip install 'raybench[{extra}]'") from error


def _wandb(folder: Path) -> Log:
    os.environ.setdefault("WANDB_SILENT", "true")  # else it prints 25 lines for every cell
    wandb = _module("wandb", "wandb")

    def log(sweep: str, label: str, row: Row) -> None:
        run = wandb.init(
            project=sweep, id=row["trial_id"], name=label, config=settings(row), dir=str(folder), resume="allow",
            reinit=True, tags=[row["method"], row["model"], row["dataset"]],
        )  # fmt: skip
        for step, values in curve(row):
            run.log(values, step=step)
        run.summary.update(figures(row))
        run.finish()

    return log


def _mlflow(folder: Path) -> Log:
    mlflow = _module("mlflow", "mlflow")

    def log(sweep: str, label: str, row: Row) -> None:
        mlflow.set_experiment(sweep)
        with mlflow.start_run(run_name=label, tags={"trial_id": row["trial_id"]}):
            mlflow.log_params({name: str(value)[:500] for name, value in settings(row).items()})
            for step, values in curve(row):
                mlflow.log_metrics(values, step=step)
            mlflow.log_metrics(figures(row))

    return log


def _tensorboard(folder: Path) -> Log:
    """Written by torch, or by tensorboardX, which comes with Ray Tune."""
    try:
        writer = import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError:
        writer = _module("tensorboardX", "tensorboard").SummaryWriter

    def log(sweep: str, label: str, row: Row) -> None:
        board = writer(str(folder / "tensorboard" / str(row["trial_id"])))
        board.add_text("label", label)
        board.add_text("settings", json.dumps(settings(row), indent=2))
        for step, values in curve(row):
            for name, value in values.items():
                board.add_scalar(name, value, step)
        for name, value in figures(row).items():
            board.add_scalar(f"figures/{name}", value, 0)
        board.close()

    return log


TRACKERS: Mapping[str, Callable[[Path], Log]] = {"wandb": _wandb, "mlflow": _mlflow, "tensorboard": _tensorboard}
