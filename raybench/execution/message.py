"""Units and outcomes as text: what crosses from the driver to a worker and back."""

from __future__ import annotations

import json
from dataclasses import asdict

from raybench.pipeline.outcome import Outcome
from raybench.plan import Unit
from raybench.spec.trial import Trial


def encode_unit(unit: Unit) -> str:
    """`unit` as JSON. The path of given weights travels too, although it is not part of the trial's identity."""
    trials = [trial.model_dump(mode="json") for trial in unit.trials]
    for dumped, trial in zip(trials, unit.trials, strict=True):
        dumped["weights"]["path"] = trial.weights.path
    return json.dumps({"key": unit.key, "kind": unit.kind, "trials": trials, "needs": unit.needs})


def decode_unit(text: str) -> Unit:
    """The unit that `encode_unit` wrote."""
    fields = json.loads(text)
    trials = tuple(Trial.model_validate(trial) for trial in fields["trials"])
    return Unit(fields["key"], fields["kind"], trials, tuple(fields["needs"]))


def encode_outcome(outcome: Outcome | None) -> str:
    """`outcome` as JSON; None is a unit that was interrupted."""
    return json.dumps(None if outcome is None else asdict(outcome) | {"summary": dict(outcome.summary)})


def decode_outcome(text: str) -> Outcome | None:
    """The outcome that `encode_outcome` wrote."""
    fields = json.loads(text)
    return None if fields is None else Outcome(**fields)
