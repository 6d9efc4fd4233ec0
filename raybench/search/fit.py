"""A polynomial of accuracy in depth, width and resolution, by least squares, with its error."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raybench.errors import UserError, counted

Values = NDArray[np.float64]
DEGREE = 2
EDGE = 1e-6  # by which sums may be off
MARGIN = 0.05  # of half a range, beyond it: samples come near the amounts asked of them, not to the digit
RANK = 1e-9  # of the largest singular value, below which samples don't tell a coefficient


@dataclass(frozen=True)
class Polynomial:
    """The fit. Variables are moved and scaled to -1..1 before powers are taken.

    Attributes:
        exponents: (terms, variables).
        centre: middle of each variable's samples.
        scale: half of their range.
        coefficients: one a term.
        rank: how many coefficients the samples tell apart; the others follow from the shortest vector.
        residual: root mean square of what the samples are off.
        left_out: the same where each sample is predicted by the fit of the others; None with no sample to spare.
        basis: (terms, rank), turns a point's terms into a vector whose squared length is its leverage.
        spanned: (terms, rank), an orthonormal basis of the samples' terms: predictions within it are unique.
        most: the largest leverage of a sample.
    """

    exponents: NDArray[np.int64]
    centre: Values
    scale: Values
    coefficients: Values
    rank: int
    residual: float
    left_out: float | None
    basis: Values
    spanned: Values
    most: float

    def __call__(self, points: Sequence[Sequence[float]]) -> Values:
        """The predicted value of each point."""
        return self._terms(points) @ self.coefficients

    def knows(self, points: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
        """Whether each point lies where samples do: its leverage is no larger than that of the outermost sample.

        Beyond, a polynomial extrapolates, and its maximum says nothing. Nor does it at a point whose terms are no
        combination of the samples': where these lie on a line, beside it.
        """
        at, design = np.asarray(points), self._terms(points)
        inside = (np.abs(at - self.centre) <= self.scale * (1 + MARGIN)).all(1)
        beside = np.abs(design - design @ self.spanned @ self.spanned.T).max(1)
        leverage = ((design @ self.basis) ** 2).sum(1)
        return np.asarray(inside & (beside <= EDGE) & (leverage <= self.most * (1 + MARGIN) ** 2))

    def _terms(self, points: Sequence[Sequence[float]]) -> Values:
        return _design(self.exponents, (np.asarray(points) - self.centre) / self.scale)


def terms(points: Sequence[Sequence[float]], degree: int = DEGREE) -> NDArray[np.int64]:
    """The exponents of a polynomial of this total degree; no variable has a power that its values can't tell apart."""
    most = [min(degree, len(set(column)) - 1) for column in zip(*points, strict=True)]
    powers = itertools.product(*(range(one + 1) for one in most))
    return np.array([one for one in powers if sum(one) <= degree], dtype=np.int64)


def fit(points: Sequence[Sequence[float]], values: Sequence[float], degree: int = DEGREE) -> Polynomial:
    """The least-squares polynomial through (points, values).

    Args:
        points: the variables of each sample.
        values: what was measured there.
        degree: the largest sum of a term's exponents.

    Raises:
        UserError: fewer samples than coefficients.
    """
    exponents = terms(points, degree) if points else np.zeros((1, 0), dtype=np.int64)
    if len(points) < len(exponents) or not points:
        wanted = f"{counted(len(exponents), 'coefficient')} of degree {degree}"
        raise UserError(f"the fit has {counted(len(points), 'sample')} for {wanted}: --samples takes more")
    at = np.asarray(points, dtype=np.float64)
    low, high = at.min(0), at.max(0)
    centre, scale = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    design, measured = _design(exponents, (at - centre) / scale), np.asarray(values, dtype=np.float64)
    left, values_of, right = np.linalg.svd(design, full_matrices=False)
    rank = int((values_of > RANK * values_of[0]).sum())
    left, spanned = left[:, :rank], right[:rank].T
    basis = spanned / values_of[:rank]
    coefficients = basis @ (left.T @ measured)
    off, leverage = measured - design @ coefficients, (left**2).sum(1)
    errors = _rms(off), _left_out(off, leverage)
    return Polynomial(exponents, centre, scale, coefficients, rank, *errors, basis, spanned, float(leverage.max()))


def _design(exponents: NDArray[np.int64], scaled: Values) -> Values:
    """The value of each term at each point: (points, terms)."""
    return np.asarray(np.prod(scaled[:, None, :] ** exponents[None], axis=2), dtype=np.float64)


def _left_out(off: Values, leverage: Values) -> float | None:
    """Root mean square error of leave-one-out: residual / (1 - leverage). None where a sample fixes a coefficient."""
    spare = 1 - leverage
    return _rms(off / spare) if spare.min() > 1e-9 else None


def _rms(values: Values) -> float:
    return float(np.sqrt(np.mean(values**2)))
