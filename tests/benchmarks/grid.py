"""What PruningBench's grid on CIFAR-100 would take at measured rates of training, by the estimate of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raybench.plan.records import Unit

SWEEP = Path(__file__).parents[2] / "sweeps" / "paper-cifar100.yaml"
IMAGES = 50_000  # of CIFAR-100's training split
CUT = 8.0  # speed-up of the networks that were measured beside the dense ones
MODELS = {"resnet18": "cifar-resnet18", "vgg19": "cifar-vgg19-bn", "resnet50": "cifar-resnet50"}


class Rate(Protocol):
    """A row of bench_training."""

    net: str
    kind: str
    key: str
    images_s: float


def lines(rows: Sequence[Rate]) -> Iterator[str]:
    """The estimate for every variant that was measured of the sweep's networks, dense and cut."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if row.net in MODELS and row.key.startswith("speed: "):
            of_key = found.setdefault(row.key.removeprefix("speed: "), {})
            of_key[MODELS[row.net], row.kind] = 1 / row.images_s
    whole = {(model, kind) for model in MODELS.values() for kind in ("dense", f"{CUT:g}x")}
    for key, seconds in found.items():
        missing = sorted({model for model, _ in whole - seconds.keys()})
        if missing:
            yield f"grid, {key}: not estimated: {', '.join(missing)} was not measured dense and at {CUT:g}x"
        else:
            yield f"grid, {key}: {text(seconds)}"


def text(seconds: Mapping[tuple[str, str], float]) -> str:
    """The plan's estimate; `seconds` an image takes, by (model, `dense` or `8x`). Selection and evaluation don't count.

    Between both the time of a step goes with the share of the MACs that is left.
    """
    from raybench.plan.cost import estimate  # a plan needs modules that training doesn't
    from raybench.plan.plan import plan
    from raybench.plan.view import cost_lines
    from raybench.sweep.reader import load_sweep

    sweep = load_sweep(SWEEP)
    units = plan(sweep, None).units
    cells = sum(unit.kind == "cell" for unit in units)
    alone = sweep.resources.model_copy(update={"gpus": 1.0})  # as it was measured
    kinds = [unit for unit in units if unit.kind != "select"]
    sums: dict[tuple[str, ...], list[float]] = {}
    for unit in kinds:
        sums.setdefault(_key(unit), []).append(unit.epochs * IMAGES * _an_image(unit, seconds))
    cost, _ = estimate(kinds, {key: sum(each) / len(each) for key, each in sums.items()}, alone)
    assert cost is not None
    passes = sum(unit.kind == "select" for unit in units)
    parts = " ".join(line.strip() for line in cost_lines(cost)[:2])
    return f"{cells} cells, training alone ({passes} selections and the measurements are not in it): {parts}"


def _key(unit: Unit) -> tuple[str, ...]:
    trial = unit.trials[0]
    return unit.kind, trial.dataset, trial.model, trial.recipe.name


def _an_image(unit: Unit, seconds: Mapping[tuple[str, str], float]) -> float:
    """Seconds that an image of an epoch takes."""
    trial = unit.trials[0]
    dense, cut = seconds[trial.model, "dense"], seconds[trial.model, f"{CUT:g}x"]
    if unit.kind != "cell":
        return dense
    left = (1 / trial.speedup - 1 / CUT) / (1 - 1 / CUT)
    return cut + (dense - cut) * left
