"""Writes the sweep file of one cell, from which `raybench run` makes the same trial again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from raybench.sweep.environment import assignments
from raybench.sweep.kinds import CHANNELS


def sweep_of(trial_json: str) -> str:
    """YAML of a sweep whose only cell is the trial in column `trial`; comments name files that must be provided."""
    trial = json.loads(trial_json)
    regularizer = trial["regularizer"] or {}
    method = {
        "name": "+".join(filter(None, (trial["importance"]["name"], regularizer.get("name")))),
        "params": trial["importance"]["params"],
        "regularizer_params": regularizer.get("params"),
    }
    sweep = {
        "name": f"cell-{trial['model'].replace(':', '-').replace('/', '-')}-{method['name'].replace('+', '-')}",
        "datasets": _entry(name=trial["dataset"], params=trial["dataset_params"]),
        "models": _entry(
            name=trial["model"],
            params=trial["model_params"],
            weights=None if trial.get("transfer_from") else _weights(trial["weights"]),
            new_head=None if trial.get("transfer_from") else trial["weights"].get("new_head"),
        ),
        "methods": _entry(**method),
        **({"strategies": trial["strategy"]} if trial.get("kind", CHANNELS) == CHANNELS else {}),
        **_asked(trial),
        **_transfer(trial),
        **({"depths": trial["depth"]} if "depth" in trial else {}),
        **({"image_sizes": trial["image_size"]} if "image_size" in trial else {}),
        "seeds": trial["seed"],
        "base_seeds": "per-seed" if trial["base_seed"] and trial["base_seed"] == trial["seed"] else "shared",
        "protocol": trial["protocol"],
        "schedule": trial["schedule"],
        "round_to": trial["round_to"],
        **{key: trial[key] for key in ("device", "threads") if trial.get(key)},
        **_resources(trial),
        "recipe": trial["recipe"],
    }
    sweep |= {name: trial[name] for name in ("prune", "keep", "only") if trial.get(name)}
    return "".join(f"# {note}\n" for note in _notes(trial)) + yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True)


def _transfer(trial: dict[str, Any]) -> dict[str, Any]:
    """The keys of a sweep that start from weights of other data; none for a trial that doesn't."""
    if not trial.get("transfer_from"):
        return {}
    file = trial["weights"]["kind"] == "file"
    return {"base": {"from": "PATH-OF-THE-WEIGHTS" if file else trial["transfer_from"]}, "transfer": trial["transfer"]}


def _asked(trial: dict[str, Any]) -> dict[str, Any]:
    """The key of a sweep that asks for the trial's amount."""
    if trial.get("target"):
        return {"targets": {trial["target"]: trial["speedup"]}}
    return {"ratio": trial["ratio"]} if trial.get("ratio") else {"speedups": trial["speedup"]}


def plugins_of(trial_json: str, folder: Path) -> list[str]:
    """Files of the plug-ins of a trial, found by content in `folder` or one level below; FILE for others.

    A row holds the hash of a plug-in, not its path, which is another one on every machine.
    """
    trial = json.loads(trial_json)
    parts = (trial["importance"], trial["regularizer"])
    wanted = {part["source"]: None for part in parts if part and part["source"]}
    if not wanted:
        return []
    files = {sha256(file.read_bytes()).hexdigest(): file for file in (*folder.glob("*/*.py"), *folder.glob("*.py"))}
    return [str(files.get(source, "FILE")) for source in wanted]


def variables_of(trial_json: str) -> str:
    """What stands before the command that makes a trial again: `NAME=value ` of each variable that changed numbers."""
    variables = json.loads(trial_json).get("environment", {})
    named = {name: str(value) for name, value in variables.items() if name.isidentifier() and name.isascii()}
    return "".join(f"{name}={shlex.quote(value)} " for name, value in named.items())


def _resources(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The resources of a trial that several processes trained; none for others, which any have."""
    count = trial.get("processes", 1)
    kind = "gpus" if trial["device"] == "cuda" else "processes"
    return {"resources": {"cpus": count, kind: count}} if count > 1 else {}


def _entry(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _weights(weights: Mapping[str, Any]) -> str | None:
    return {"trained": None, "hub": "pretrained", "file": "PATH-OF-THE-WEIGHTS"}[weights["kind"]]


def _notes(trial: Mapping[str, Any]) -> list[str]:
    notes = []
    if trial["weights"]["kind"] == "file":
        notes.append(f"weights: the file with SHA-256 {trial['weights']['identity']}")
    if trial["dataset_fingerprint"]:
        notes.append(f"data: the folder with fingerprint {trial['dataset_fingerprint']}; say where in data_roots")
    if variables := trial.get("environment"):
        notes.append(f"environment: it changed numbers; set {assignments(variables)}")
    for part in filter(None, (trial["importance"], trial["regularizer"])):
        if part["source"]:
            notes.append(f"{part['name']} is a plug-in (--plugin FILE) with SHA-256 {part['source']}")
    return notes
