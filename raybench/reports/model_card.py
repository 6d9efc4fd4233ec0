"""The card of a pruned network: a README.md with its figures, data, recipe, versions, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raybench.catalogue import TRAIN, UNTRAINED
from raybench.errors import printable
from raybench.reports.pruned_text import figures_of, target_of
from raybench.reports.recipe_text import stage_text
from raybench.reports.text import markdown
from raybench.sweep.kinds import CHANNELS, TOKENS
from raybench.sweep.method_label import method_label
from raybench.sweep.modules import own_module
from raybench.sweep.recipe import TrainRecipe

CARD = "README.md"
ARROW = ("-\\>", "→")  # what Markdown makes of an arrow, and what people read in the file itself
WHAT = {  # kind of the method -> what was done
    CHANNELS: "Structurally pruned by raybench: whole channels were removed, so it is an ordinary, smaller network.",
    TOKENS: "Reduced by raybench: its blocks remove tokens of the image on the way, so later layers compute less.",
}


def card_of(row: Mapping[str, Any]) -> str:
    """Markdown for the cell in `row`, a finished row of results; no paths of this machine are in it."""
    trial = json.loads(row["trial"])
    figures = [(figure.name.strip(), figure.text(row)) for figure in figures_of(row["metric_name"])]
    known = row["provenance"] or {}
    versions = {name: known[column] for column, name in VERSIONS.items() if known.get(column)}
    own = own_module(row["model"])
    trust = ", trust_code=True" if own else ""
    params = "".join(f", {name} {value}" for name, value in trial["model_params"].items())
    data = "".join(f", {name} {value}" for name, value in trial["dataset_params"].items())
    model = printable(row["model"]).replace("`", "")
    facts = [
        f"model: {row['model']}{params}",
        f"base: {_base(trial)}",
        f"data: {row['dataset']}{data}",
        f"method: {method_label(trial)}, {row['strategy']}, schedule {row['schedule']}, seed {row['seed']}",
        f"recipe: {row['recipe']}: fine-tuning {_tuning(trial)}",
        f"measured on: {_machine(row)}",
        f"versions: {', '.join(f'{name} {value}' for name, value in versions.items())}",
        f"trial: {row['trial_id']}",
    ]
    return "\n".join(
        [
            f"# {markdown(row['model'])}, pruned to {target_of(row)}",
            "",
            WHAT[row["kind"]],
            "",
            "| figure | before → after |",
            "|---|---|",
            *(f"| {markdown(name)} | {markdown(text).replace(*ARROW)} |" for name, text in figures if text != "-"),
            "",
            *(f"- {markdown(fact)}" for fact in facts),
            "",
            "## Load it",
            "```python",
            "import raybench",
            "",
            f"model = raybench.load_pruned(FOLDER{trust})  # the folder of this file; in eval mode",
            "```",
            *([f"It needs the module of `{model}` on the Python path, and runs it.", ""] if own else []),
            "Input: a batch of images (n, channels, height, width), normalised with `mean` and `std` of `data` in",
            "`pruned.json`, which also has `class_names`."
            + (" Output: a score for each class." if row["task"] == "classification" else ""),
            "",
        ]
    )


VERSIONS = {  # column of the provenance -> name
    "code_version": "raybench", "python": "python", "torch": "torch", "torchvision": "torchvision",
    "torch_pruning": "torch-pruning", "timm": "timm", "ultralytics": "ultralytics", "cuda": "cuda",
}  # fmt: skip


def _tuning(trial: Mapping[str, Any]) -> str:
    """How the network was trained after pruning."""
    if trial["importance"]["params"].get(TRAIN) == UNTRAINED:
        return "left out: the method needs none"
    return stage_text(TrainRecipe(**trial["recipe"]["finetune"]))


def _base(trial: Mapping[str, Any]) -> str:
    weights = trial["weights"]
    if weights["kind"] == "trained":
        return f"trained by the recipe: {stage_text(TrainRecipe(**trial['recipe']['base']))}"
    head = ", with a new classifier" if weights.get("new_head") else ""
    kinds = {"file": "a file with SHA-256", "hub": "published weights", "stage": "a network of other data, stage"}
    return f"{kinds[weights['kind']]} {weights['identity']}{head}"


def _machine(row: Mapping[str, Any]) -> str:
    about = row["provenance"] or {}
    threads = about.get("threads")
    noun = "thread" if threads == 1 else "threads"
    return about.get("device_name") or f"{about.get('cpu') or row['device']}, {threads} {noun}"
