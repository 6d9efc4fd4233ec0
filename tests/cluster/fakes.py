"""Plans by hand, for tests of scheduling that need no training."""

from raybench.plan.records import Plan, Unit
from raybench.progress.outcome import Outcome
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.trial import MethodRef, Trial


def trial(model="test-convnet", importance="random", seed=0, speedup=2.0, epochs=(3, 2, 1)) -> Trial:
    base, sparsify, finetune = (TrainRecipe(epochs=n, lr=0.1) for n in epochs)
    recipe = Recipe(name="tiny", base=base, sparsify=sparsify, finetune=finetune)
    return Trial(
        dataset="digits", model=model, importance=MethodRef(name=importance), seed=seed, speedup=speedup, recipe=recipe
    )


def unit(key: str, *needs: str, **fields) -> Unit:
    """`base-a`, `select-a`, `cell-a-0`: the kind is the first word of the key."""
    return Unit(key, key.partition("-")[0], (trial(**fields),), needs)


def plan(*units: Unit) -> Plan:
    return Plan(units, done=(), skips=(), trials=tuple(u.trials[0] for u in units if u.kind == "cell"))


def two_bases(cells=2, **of_b) -> Plan:
    """Two unrelated chains a and b; `of_b` changes the trials of b."""
    units = []
    for name, fields in {"a": {}, "b": of_b}.items():
        units += [unit(f"base-{name}", **fields), unit(f"select-{name}", f"base-{name}", **fields)]
        units += [unit(f"cell-{name}-{n}", f"select-{name}", **fields) for n in range(cells)]
    return plan(*units)


def ok(unit: Unit) -> Outcome:
    return Outcome(unit.key, unit.kind, "ok", unit.kind)


def failed(unit: Unit, message="boom") -> Outcome:
    return Outcome(unit.key, unit.kind, "failed", unit.kind, "ValueError", message)
