"""Trials and rows that the tests of results share."""

from raybench.provenance import provenance
from raybench.results.schema import Record
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial

STAGE = TrainRecipe(epochs=2, lr=0.1)
RECIPE = Recipe(name="quick", base=STAGE, sparsify=STAGE, finetune=STAGE)
MEASURED = {
    "speedup": 2.001,
    "macs_base": 41_000_000,
    "macs": 20_500_000,
    "params_base": 270_000,
    "params": 135_000,
    "metric_name": "top1",
    "metric_base": 98.0,
    "metric_pruned": 60.0,
    "metric_final": 97.0,
    "latency_base_ms": 2.0,
    "latency_ms": 1.0,
    "step_time_s": 0.25,
    "seconds_base": 10.0,
    "seconds_select": 1.0,
    "seconds_prune": 0.5,
    "seconds_finetune": 4.0,
    "seconds_measure": 0.5,
    "exclusive": True,
    "device": "cpu",
    "curve": [{"stage": "finetune", "epoch": e, "lr": 0.1, "train_loss": 1 / e, "metric": 90.0 + e} for e in (1, 2)],
    "layers": [{"layer": "conv1", "out_before": 16, "out_after": 8, "in_before": 1, "in_after": 1}],
    "kept": {"conv1": [0, 2, 4]},
}


def trial(importance="magnitude-l2", regularizer=None, *, params=None, **fields):
    """A trial of a digits net, with any field changed."""
    method = {
        "importance": MethodRef(name=importance, params=params or {}),
        "regularizer": MethodRef(name=regularizer) if regularizer else None,
    }
    return Trial(
        **{"dataset": "digits", "model": "cifar-resnet20", "speedup": 2.0, "recipe": RECIPE, **method, **fields}
    )


def row(of=None, **values):
    """A finished row of trial `of`, with any measured value changed."""
    of = of or trial()
    sparsified = {"reg_time_s": 3.0, "seconds_sparsify": 6.0} if of.regularizer else {}
    speed = {"speedup": of.speedup, "provenance": provenance(device_name="a processor", threads=1)}
    return Record.of_trial(of, **{**MEASURED, **speed, **sparsified, **values})


def failure(of=None, stage="finetune", message="out of memory"):
    """A failed attempt of trial `of`."""
    return Record.failed(of or trial(), stage=stage, error_type="RuntimeError", error_message=message)
