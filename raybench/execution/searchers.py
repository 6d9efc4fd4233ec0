"""Ray Tune's searcher Optuna, asked point by point: a baseline for a search of raybench's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raybench.errors import UserError


def check_optuna() -> None:
    """UserError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("--sampler optuna needs Optuna: pip install 'raybench[optuna]'") from error


def optuna_search(
    sizes: Mapping[str, int], count: int, seed: int, measure: Callable[[Mapping[str, int]], float | None]
) -> None:
    """Let Optuna choose `count` times, and tell it what each choice measured.

    Args:
        sizes: name of an axis -> how many values it has; values are chosen by their index.
        count: how often it chooses; it may choose the same twice.
        seed: of Optuna's sampler (TPE).
        measure: the value of a choice, to be made large; None where it failed.

    Raises:
        UserError: the package Optuna is not installed.
    """
    check_optuna()
    import optuna
    from optuna.distributions import IntDistribution
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: IntDistribution(0, size - 1) for name, size in sizes.items()}
    searcher = OptunaSearch(space, metric="metric", mode="max", sampler=optuna.samplers.TPESampler(seed=seed))
    for number in range(count):
        chosen = searcher.suggest(str(number)) or {}
        value = measure(chosen)
        searcher.on_trial_complete(str(number), None if value is None else {"metric": value}, error=value is None)
