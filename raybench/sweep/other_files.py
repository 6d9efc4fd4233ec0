"""Tells a file of another tool from a sweep file with mistakes, so that one sentence answers it."""

from __future__ import annotations

from collections.abc import Collection

from raybench.errors import brief, close
from raybench.sweep.mistakes import Mistake, Mistakes
from raybench.sweep.nodes import YamlNode

AXES = ("models", "datasets", "methods", "speedups")  # what every sweep is made of
TOOLS = (  # keys that a file of that kind has, all of them -> what it is
    ({"finetune"}, "a recipe, which a sweep names: `recipe: {file}`"),
    ({"hydra"}, "a Hydra configuration"),
    ({"defaults"}, "a Hydra configuration"),
    ({"on", "jobs"}, "a GitHub workflow"),
    ({"cluster_name", "provider"}, "a Ray cluster, which `ray up` starts"),
    ({"services"}, "a Docker Compose file"),
    ({"apiVersion", "kind"}, "a Kubernetes manifest"),
    ({"cells", "nbformat"}, "a notebook"),
    ({"train", "val", "names"}, "a YOLO dataset: `datasets: yolo`, with its folder in `data_roots`"),
    ({"images", "annotations"}, "COCO annotations: `datasets: coco`, with its folder in `data_roots`"),
    ({"kept", "trial_id"}, "a pruned network: raybench.load_pruned(FOLDER) loads it"),
    ({"dependencies"}, "a conda environment"),
    ({"architectures"}, "a model's configuration of Hugging Face"),
)


def refuse_other(root: YamlNode, known: Collection[str]) -> None:
    """Raise Mistakes, in one sentence, for a mapping that isn't meant as a sweep. `known`: all keys of sweeps."""
    if not isinstance(root.value, dict) or root.value.keys() <= set(known) or _meant(root.value):
        return
    found = brief(", ".join(root.value)) or "no keys"
    kind = next((text for keys, text in TOOLS if keys <= root.value.keys()), "")
    like = f"; it looks like {kind.format(file=root.file.name)}" if kind else ""
    message = f"this is no sweep file: found {found}, expected {', '.join(AXES)}{like}"
    raise Mistakes([Mistake(root.file, None, (), message)])


def _meant(keys: Collection[str]) -> bool:
    """Whether the keys are those of a sweep: one of the axes, or two that are nearly so."""
    return any(axis in keys for axis in AXES) or sum(close(axis, keys) is not None for axis in AXES) > 1
