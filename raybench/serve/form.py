"""Reads the form of a new sweep into the sweep file that it describes; every mistake names its field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from raybench import registry
from raybench.errors import UserError, unknown
from raybench.serve.data import check_stays
from raybench.serve.places import allowed_module, allowed_path
from raybench.serve.settings import Settings
from raybench.serve.uploads import Uploads
from raybench.sweep.axes import Part, StrategyName
from raybench.sweep.modules import own_module
from raybench.sweep.nodes import as_yaml, scalar
from raybench.sweep.reader import SHIPPED, recipe_files
from raybench.sweep.sweep import Sweep

OWN = "own"  # the model that is typed beside the list
STAGES = {"base": "base", "sparsify": "sparsifying", "finetune": "fine-tuning"}
SETTINGS = {"epochs": int, "warmup_epochs": float, "batch_size": int, "lr": float}
PARTS: tuple[str, ...] = get_args(Part)
CHOICES: dict[str, tuple[str, ...]] = {  # the default first
    name: get_args(Sweep.model_fields[name].annotation) for name in ("base_seeds", "protocol", "schedule")
}
ALONE = {"selection": "trained selection", "token": "token reducer"}  # methods that go with no regularizer
WORD = re.compile(r"[\w.+~-]+")  # a parameter: no separator of paths
MOST_TEXT = 2000  # characters of one field
MOST_ITEMS = 200  # entries of one list
_DEFAULT = Sweep.model_fields["strategies"].default[0]  # stands first
STRATEGIES: tuple[str, ...] = tuple(sorted(get_args(StrategyName), key=lambda one: one != _DEFAULT))
MOST_CELLS = 20_000  # of one run; a plan of more takes minutes and memory, while somebody types


class FormError(UserError):
    """Mistakes in a form, one a line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Wanted:
    """What a form describes: the sweep as a file, the folder from which its own modules are imported, and its parts."""

    name: str
    yaml: str
    folder: Path | None  # None: no module of one's own
    model: str
    dataset: str
    image_size: str  # as typed among the dataset's parameters; empty: the dataset's own
    methods: tuple[str, ...]
    keep: tuple[str, ...]
    only: tuple[str, ...]
    prune: tuple[str, ...]


class Fields:
    """The values of a form; what is wrong with them is collected, so that all is reported at once."""

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """The value of a field without spaces around it; empty without one."""
        found = (self._values.get(name) or [""])[0].strip()
        if len(found) > MOST_TEXT:
            self.problems.append(f"{label(name)}: found {len(found)} characters, expected at most {MOST_TEXT}")
            return ""
        return found

    def chosen(self, name: str, kind: str, known: Iterable[str]) -> list[str]:
        """The values of a field with several boxes, each once; one that isn't `known` is a mistake.

        None of them goes further: to a command it could be an option, and in a sweep a path.
        """
        found = [value for value in dict.fromkeys(self._values.get(name, ())) if value][:MOST_ITEMS]
        names = set(known)
        self.problems += [
            f"{label(name)}: {unknown(kind, one[:MOST_TEXT], names)}" for one in found if one not in names
        ]
        return [one for one in found if one in names]

    def one(self, name: str, kind: str, known: Iterable[str], default: str = "") -> str:
        """The value of a list; `default` where it is empty or isn't `known`, which is a mistake."""
        text, names = self.text(name), set(known)
        if text and text not in names:
            self.problems.append(f"{label(name)}: {unknown(kind, text, names)}")
        return text if text in names else default

    def items(self, name: str) -> list[str]:
        """The words of a field, which commas, spaces or lines separate."""
        return [word for word in re.split(r"[,\s]+", self.text(name)) if word][:MOST_ITEMS]

    def numbers(self, name: str, kind: Callable[[str], Any]) -> list[Any]:
        """The numbers of a field: ``2, 4 8x``."""
        return [one for word in self.items(name) if (one := self._number(name, word.rstrip("xX"), kind)) is not None]

    def number(self, name: str, kind: Callable[[str], Any]) -> Any:
        """The number of a field; None where it is empty."""
        return self._number(name, text, kind) if (text := self.text(name)) else None

    def _number(self, name: str, text: str, kind: Callable[[str], Any]) -> Any:
        try:
            return kind(text)
        except ValueError:
            self.problems.append(
                f"{label(name)}: found {text!r}, expected {'a whole number' if kind is int else 'a number'}"
            )
            return None

    def parameters(self, name: str) -> dict[str, Any]:
        """`name=value` pairs. A value is a number, true, false or a word, so that it names no path."""
        found = {}
        for word in self.items(name):
            key, equals, value = word.partition("=")
            if not equals or not key.isidentifier() or not WORD.fullmatch(value) or ".." in value:
                self.problems.append(f"{label(name)}: found {word!r}, expected name=value, such as width=32")
            else:
                found[key] = scalar(value)
        return found

    def patterns(self, name: str) -> list[str]:
        """Names or globs of layers."""
        found = self.items(name)
        for word in found:
            if word.startswith("-"):  # the command of a dry run would take it for an option
                self.problems.append(f"{label(name)}: found {word!r}, expected the name of a layer, or a glob")
        return found

    def tried(self, read: Callable[[], Any]) -> Any:
        """What `read` returns; None after its UserError has become a problem."""
        try:
            return read()
        except UserError as error:
            self.problems.append(str(error))
            return None


def label(name: str) -> str:
    """The name of a field as people see it."""
    return name.replace("_", " ")


def read_form(values: Mapping[str, list[str]], settings: Settings, uploads: Uploads) -> Wanted:
    """The sweep that a form describes.

    Args:
        values: name of a field -> its values.
        settings: of the server; its allowed folders bound what the form may name.
        uploads: the uploaded weights.

    Raises:
        FormError: with every mistake that shows without reading the models; the plan finds the others.
    """
    form = Fields(values)
    folder: list[Path] = []
    model = _model(form, settings, uploads, folder)
    dataset: dict[str, Any] = {"name": form.one("dataset", "dataset", registry.dataset.entries())}
    dataset |= _some(params=form.parameters("dataset_params"))
    methods = _methods(form)
    sweep: dict[str, Any] = {
        "name": form.text("name") or "served",
        "datasets": [dataset],
        "models": [model],
        "methods": methods,
        **_some(strategies=form.chosen("strategy", "strategy", STRATEGIES)),
        "speedups": form.numbers("speedups", float),
        **_some(seeds=form.numbers("seeds", int)),
        **_some(**{name: form.one(name, label(name), known) for name, known in CHOICES.items()}),
        "recipe": _recipe(form),
        **_some(prune=form.chosen("prune", "part", PARTS), keep=form.patterns("keep"), only=form.patterns("only")),
        **_some(round_to=form.number("round_to", int)),
        **_some(resources=_resources(form), data_roots=_data_roots(form, dataset, settings)),
    }
    if not sweep["speedups"] and not any(one.startswith("speedups: ") for one in form.problems):
        form.problems.append("speedups: found none, expected one or several, such as 2, 4")
    counts = (methods, sweep.get("strategies", ()), sweep["speedups"], sweep.get("seeds", ()))
    if (cells := math.prod(max(1, len(one)) for one in counts)) > MOST_CELLS:
        form.problems.append(f"cells: found {cells}, expected at most {MOST_CELLS} in one run")
    if form.problems:
        raise FormError(form.problems)
    return Wanted(
        sweep["name"], as_yaml(sweep), folder[0] if folder else None, model["name"], dataset["name"],
        str(dataset.get("params", {}).get("image_size", "")), tuple(methods),
        tuple(sweep.get("keep", ())), tuple(sweep.get("only", ())), tuple(sweep.get("prune", ())),
    )  # fmt: skip


def _data_roots(form: Fields, dataset: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """The folder of the dataset, which must be an allowed one and lead to no other; empty where none was typed."""
    text = form.text("data_folder")
    root = form.tried(lambda: allowed_path("data folder", text, settings.allowed, folder=True)) if text else None
    if root is None or not dataset["name"]:
        return {}
    form.tried(lambda: check_stays(dataset["name"], dataset.get("params", {}), root, settings.allowed))
    return {dataset["name"]: str(root)}


def _some(**fields: Any) -> dict[str, Any]:
    """The fields that were filled in."""
    return {name: value for name, value in fields.items() if value not in ("", None, [], {})}


def _model(form: Fields, settings: Settings, uploads: Uploads, folder: list[Path]) -> dict[str, Any]:
    """The model's entry; `folder` receives the one from which a module of one's own is imported."""
    name = form.text("model")
    if name == OWN:
        name = form.text("own_model")
        if own_module(name):
            root = form.tried(lambda: allowed_module(name, settings.allowed))
            folder += [root] if root else []
        elif not re.fullmatch(r"timm:[\w.-]+", name):
            form.problems.append(f"own model: found {name!r}, expected module:function or timm:NAME")
    else:
        name = form.one("model", "model", registry.model.entries())
    entry: dict[str, Any] = {"name": name} | _some(params=form.parameters("model_params"))
    weights = form.text("weights") or "trained"
    if weights == "path":
        text = form.text("weights_path")
        found = form.tried(lambda: allowed_path("weights path", text, settings.allowed))
        weights = str(found)
    elif weights.startswith("upload:"):
        found = form.tried(lambda: uploads.file(weights.partition(":")[2]))
        weights = str(found)
    elif weights not in ("trained", "pretrained"):
        form.problems.append(f"weights: found {weights!r}, expected trained, pretrained, an upload or a path")
    if weights != "trained":
        entry["weights"] = weights
        if form.text("new_head"):
            entry["new_head"] = True
    return entry


def _methods(form: Fields) -> list[str]:
    """Every criterion with every chosen regularizer, `none` being the criterion alone; then the other methods."""
    criteria = form.chosen("method", "criterion", registry.importance.entries())
    regularizers = form.chosen("regularizer", "regularizer", ("none", *registry.regularizer.entries())) or ["none"]
    kinds = {"selection": registry.selection, "token": registry.token}
    others = [one for field, kind in ALONE.items() for one in form.chosen(field, kind, kinds[field].entries())]
    if not criteria and not others:
        form.problems.append("criteria: found none, expected at least one, or a trained selection or token reducer")
    return [one if r == "none" else f"{one}+{r}" for one in criteria for r in regularizers] + others


def _recipe(form: Fields) -> Any:
    """The recipe's name, or what is changed of it."""
    name = form.one("recipe", "recipe", recipes(), "quick")
    changes: dict[str, Any] = {}
    for stage in STAGES:
        own = {key: form.number(f"{stage}_{key}", kind) for key, kind in SETTINGS.items()}
        if own := _some(**own):
            changes[stage] = own
    return {"extends": name, **changes} if changes else name


def recipes() -> list[str]:
    """Names of the recipes that come with raybench."""
    return sorted(recipe_files(SHIPPED))


def _resources(form: Fields) -> dict[str, Any]:
    return _some(cpus=form.number("cpus", float), gpus=form.number("gpus", float), memory=form.text("memory"))
