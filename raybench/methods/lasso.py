"""The exact LASSO path of a sum regressed on its own terms, from the terms' Gram matrix alone."""

from __future__ import annotations

import numpy as np
from scipy.linalg.blas import dtpsv

DEGENERATE = 1e-9  # a term is skipped when its part outside the span of the active terms is below this share
SMALLEST = 1e-12  # the path ends at this share of the first penalty


def entry_penalties(gram: np.ndarray) -> np.ndarray:
    """(n,) largest lambda at which b_j != 0 in min_b ||y - sum_j b_j x_j||^2 / 2 + lambda ||b||_1, over ||y||^2.

    y = sum_j x_j; `gram` is <x_i, x_j>, (n, n) float64. A term that others reproduce exactly, or that is 0, scores 0.
    Least angle regression with LASSO's drops (Efron et al. 2004, section 3.1): n steps of O(n^2) if no term drops out.
    """
    energy = float(gram.sum())
    if energy <= 0:
        return np.zeros(len(gram))
    return _Path(np.ascontiguousarray(gram, dtype=np.float64)).run() / energy


class _Path:
    """The state of one path: correlations, the active terms in order of entry, their Cholesky factor.

    The upper factor is packed by columns: an entering term is appended, and BLAS solves without a copy.
    """

    def __init__(self, gram: np.ndarray) -> None:
        n = len(gram)
        self.gram, self.correlation = gram, gram.sum(1)
        self.active: list[int] = []
        self.coefficients, self.signs, self.direction = np.zeros(n), np.zeros(n), np.zeros(n)
        self.rows = np.empty((n, n))  # gram[active], in order of entry
        self.factor = np.empty(n * (n + 1) // 2)
        self.waiting = gram.diagonal() > 0
        self.entered = np.zeros(n)

    def run(self) -> np.ndarray:
        """(n,) largest penalty at which each term is active, 0 for one that never is."""
        first = penalty = float(np.abs(self.correlation).max())
        blocked = -1  # a term that just dropped out is still at the limit, but moves inward
        for _ in range(8 * len(self.gram)):
            if blocked < 0 and self.waiting.any():
                self._enter(penalty)
            k = len(self.active)
            pull = self.direction[:k] @ self.rows[:k]  # how fast each correlation falls as the penalty does
            gamma = min(self._next_entry(penalty, pull, blocked), penalty)
            gamma, blocked = self._limit_by_drop(gamma)
            self.coefficients[:k] += gamma * self.direction[:k]
            self.correlation -= gamma * pull
            penalty -= gamma
            if penalty <= SMALLEST * first:
                break
            if blocked >= 0:
                blocked = self._drop(blocked)
        return self.entered

    def _enter(self, penalty: float) -> None:
        """Activate the waiting term with the largest correlation, or discard it if the active terms span it."""
        j = int(np.argmax(np.where(self.waiting, np.abs(self.correlation), -1.0)))
        self.waiting[j] = False
        k, row = len(self.active), self.gram[j]
        known = row[self.active]
        half = self._solve(known, transposed=True)
        rest = row[j] - half @ half
        if rest <= DEGENERATE * row[j]:
            return
        sign = 1.0 if self.correlation[j] > 0 else -1.0
        step = (sign - known @ self.direction[:k]) / rest
        self.direction[:k] -= step * self._solve(half, transposed=False)
        self.direction[k], self.signs[k], self.coefficients[k] = step, sign, 0.0
        start = k * (k + 1) // 2
        self.factor[start : start + k], self.factor[start + k] = half, np.sqrt(rest)
        self.rows[k] = row
        self.active.append(j)
        self.entered[j] = max(self.entered[j], penalty)

    def _next_entry(self, penalty: float, pull: np.ndarray, blocked: int) -> float:
        """The step of the penalty at which the next waiting term's correlation equals it; inf if there is none."""
        open_ = self.waiting.copy()
        if blocked >= 0:
            open_[blocked] = False
        if not open_.any():
            return np.inf
        c, a = self.correlation[open_], pull[open_]
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = np.concatenate([(penalty - c) / (1 - a), (penalty + c) / (1 + a)])
        gaps = gaps[np.isfinite(gaps) & (gaps >= -1e-12 * penalty)]
        return max(float(gaps.min()), 0.0) if len(gaps) else np.inf

    def _limit_by_drop(self, gamma: float) -> tuple[float, int]:
        """(the step, the term whose coefficient crosses zero within it, or -1)."""
        k = len(self.active)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = -self.coefficients[:k] / self.direction[:k]
        crossing[~(crossing > 0)] = np.inf
        i = int(np.argmin(crossing))
        return (float(crossing[i]), self.active[i]) if crossing[i] < gamma else (gamma, -1)

    def _drop(self, term: int) -> int:
        """Deactivate `term` and factor again; returns it."""
        i = self.active.index(term)
        del self.active[i]
        self.waiting[term] = True
        k = len(self.active)
        for values in (self.coefficients, self.signs):
            values[i:k] = values[i + 1 : k + 1]
        self.rows[i:k] = self.rows[i + 1 : k + 1].copy()
        if k:
            upper = np.linalg.cholesky(self.rows[:k, self.active]).T
            self.factor[: k * (k + 1) // 2] = upper.T[np.tril_indices(k)]
            self.direction[:k] = self._solve(self._solve(self.signs[:k], transposed=True), transposed=False)
        return term

    def _solve(self, values: np.ndarray, *, transposed: bool) -> np.ndarray:
        """U^-T v or U^-1 v with the packed upper factor U of the active terms."""
        k = len(values)
        return dtpsv(k, self.factor[: k * (k + 1) // 2], values, trans=int(transposed)) if k else values
