"""Units, grants and outcomes as JSON text, as sent from the driver to a worker and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raybench.execution.grants import Grant
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.sweep.trial import Trial


def encode_unit(unit: Unit) -> str:
    """`unit` as JSON, with the path of given weights, which is not part of the trial's identity.

    Weights below the current folder are also named relative to it, as a job's folder has another path on each node.
    """
    trials = [trial.model_dump(mode="json") for trial in unit.trials]
    near: dict[str, str] = {}
    for dumped, trial in zip(trials, unit.trials, strict=True):
        path = dumped["weights"]["path"] = trial.weights.path
        if path and Path(path).is_relative_to(Path.cwd()):
            near[path] = Path(path).relative_to(Path.cwd()).as_posix()
    fields = {"key": unit.key, "kind": unit.kind, "trials": trials, "needs": unit.needs, "recipe": unit.recipe}
    return json.dumps(fields | {"near": near})


def decode_unit(text: str) -> Unit:
    """The unit that `encode_unit` wrote; weights are searched at their path, then below the current folder."""
    fields = json.loads(text)
    trials = tuple(Trial.model_validate(_with_local_path(trial, fields["near"])) for trial in fields["trials"])
    return Unit(fields["key"], fields["kind"], trials, tuple(fields["needs"]), fields["recipe"])


def _with_local_path(trial: dict[str, Any], near: Mapping[str, str]) -> dict[str, Any]:
    path = trial["weights"]["path"]
    if path in near and not Path(path).exists():
        trial["weights"]["path"] = str(Path.cwd() / near[path])
    return trial


def encode_grant(grant: Grant) -> str:
    """`grant` as JSON."""
    return json.dumps(asdict(grant))


def decode_grant(text: str) -> Grant:
    """The grant that `encode_grant` wrote."""
    return Grant(**json.loads(text))


def encode_outcome(outcome: Outcome | None) -> str:
    """`outcome` as JSON; None for a unit that was interrupted."""
    return json.dumps(None if outcome is None else asdict(outcome) | {"summary": dict(outcome.summary)})


def decode_outcome(text: str) -> Outcome | None:
    """The outcome that `encode_outcome` wrote."""
    fields = json.loads(text)
    return None if fields is None else Outcome(**{**fields, "damage": tuple(fields["damage"])})
