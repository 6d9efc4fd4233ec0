"""Units and outcomes as text: what crosses from the driver to a worker and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raybench.pipeline.outcome import Outcome
from raybench.plan import Unit
from raybench.spec.trial import Trial


def encode_unit(unit: Unit) -> str:
    """`unit` as JSON. The path of given weights travels too, although it is not part of the trial's identity.

    Weights below the current folder are also named relative to it: a job's folder has another place on other nodes.
    """
    trials = [trial.model_dump(mode="json") for trial in unit.trials]
    near: dict[str, str] = {}
    for dumped, trial in zip(trials, unit.trials, strict=True):
        path = dumped["weights"]["path"] = trial.weights.path
        if path and Path(path).is_relative_to(Path.cwd()):
            near[path] = Path(path).relative_to(Path.cwd()).as_posix()
    return json.dumps({"key": unit.key, "kind": unit.kind, "trials": trials, "needs": unit.needs, "near": near})


def decode_unit(text: str) -> Unit:
    """The unit that `encode_unit` wrote; weights are looked for where they were, then below the current folder."""
    fields = json.loads(text)
    trials = tuple(Trial.model_validate(_found(trial, fields["near"])) for trial in fields["trials"])
    return Unit(fields["key"], fields["kind"], trials, tuple(fields["needs"]))


def _found(trial: dict[str, Any], near: Mapping[str, str]) -> dict[str, Any]:
    path = trial["weights"]["path"]
    if path in near and not Path(path).exists():
        trial["weights"]["path"] = str(Path.cwd() / near[path])
    return trial


def encode_outcome(outcome: Outcome | None) -> str:
    """`outcome` as JSON; None is a unit that was interrupted."""
    return json.dumps(None if outcome is None else asdict(outcome) | {"summary": dict(outcome.summary)})


def decode_outcome(text: str) -> Outcome | None:
    """The outcome that `encode_outcome` wrote."""
    fields = json.loads(text)
    return None if fields is None else Outcome(**fields)
