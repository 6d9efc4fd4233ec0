"""Agreement of two rankings: Kendall's tau-b, with an interval over the methods that both rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_METHODS = 4
REPLICATES = 1000


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of two rankings: 1 the same order, 0 none in common, -1 reversed."""

    tau: float | None  # None where a ranking has no differences, or fewer than four methods
    low: float | None
    high: float | None


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> Agreement:
    """Compare two rankings of methods by their metric.

    The interval is the 95 % percentile interval over drawings of the methods with replacement: it says how much the
    figure depends on which methods were ranked. Pairs of a method with itself are not counted.

    Args:
        first: method -> metric, higher is better.
        second: the same under the other condition; methods that one of them lacks are left out.

    Example:
        >>> up = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
        >>> agreement(up, up).tau, agreement(up, {name: -value for name, value in up.items()}).tau
        (1.0, -1.0)
    """
    return mean_agreement([(first, second)])


def _signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[:, None] - values[None, :])


def _tau_b(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Tau-b for each row of `weights`, the number of times that each method was drawn; NaN without differences."""

    def total(matrix: np.ndarray) -> np.ndarray:
        return np.asarray(((weights @ matrix) * weights).sum(axis=1))

    below = np.sqrt(total(first**2) * total(second**2))
    return np.divide(total(first * second), below, out=np.full(len(weights), np.nan), where=below > 0)


def mean_agreement(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Agreement:
    """Mean tau-b of many pairs of rankings.

    Pairs with fewer than four methods in common, or without differences, don't count. The pairs share their methods:
    the interval is from drawings of the methods, the same ones for all pairs.

    Args:
        pairs: pairs of method -> metric.
    """
    names = sorted({name for first, second in pairs for name in set(first) & set(second)})
    if not names:
        return Agreement(None, None, None)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=REPLICATES)
    taus, replicated = [], []
    for first, second in pairs:
        common = [place for place, name in enumerate(names) if name in first and name in second]
        if len(common) < FEWEST_METHODS:
            continue
        values = (np.round([one[names[place]] for place in common], 9) for one in (first, second))
        ours, theirs = (_signs(value) for value in values)
        tau = float(_tau_b(ours, theirs, np.ones((1, len(common))))[0])
        if not np.isnan(tau):
            taus.append(tau)
            replicated.append(_tau_b(ours, theirs, drawn[:, common].astype(float)))
    if not taus:
        return Agreement(None, None, None)
    stacked = np.stack(replicated)
    means = np.nanmean(stacked[:, ~np.isnan(stacked).all(axis=0)], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Agreement(float(np.mean(taus)), float(low), float(high))
