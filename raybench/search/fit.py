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
EDGE = 1e-6  # of a range, by which sums may be off


@dataclass(frozen=True)
class Polynomial:
    """The fit. Variables are moved and scaled to -1..1 before powers are taken.

    Attributes:
        exponents: (terms, variables).
        centre: middle of each variable's samples.
        scale: half of their range.
        coefficients: one a term.
        residual: root mean square of what the samples are off.
        left_out: the same where each sample is predicted by the fit of the others; None with no sample to spare.
        basis: turns a point's terms into a vector whose squared length is its leverage.
        most: the largest leverage of a sample.
    """

    exponents: NDArray[np.int64]
    centre: Values
    scale: Values
    coefficients: Values
    residual: float
    left_out: float | None
    basis: Values
    most: float

    def __call__(self, points: Sequence[Sequence[float]]) -> Values:
        """The predicted value of each point."""
        return self._terms(points) @ self.coefficients

    def knows(self, points: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
        """Whether each point lies where samples do: its leverage is no larger than that of the outermost sample.

        Beyond, a polynomial extrapolates, and its maximum says nothing.
        """
        at = np.asarray(points)
        inside = (np.abs(at - self.centre) <= self.scale * (1 + EDGE)).all(1)
        return np.asarray(inside & (((self._terms(points) @ self.basis) ** 2).sum(1) <= self.most * (1 + EDGE)))

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
        UserError: fewer samples than coefficients, or samples that don't tell them apart.
    """
    exponents = terms(points, degree) if points else np.zeros((1, 0), dtype=np.int64)
    if len(points) < len(exponents) or not points:
        wanted = f"{counted(len(exponents), 'coefficient')} of degree {degree}"
        raise UserError(f"the fit has {counted(len(points), 'sample')} for {wanted}: --samples takes more")
    at = np.asarray(points, dtype=np.float64)
    low, high = at.min(0), at.max(0)
    centre, scale = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    design, measured = _design(exponents, (at - centre) / scale), np.asarray(values, dtype=np.float64)
    coefficients, _, rank, _ = np.linalg.lstsq(design, measured, rcond=None)
    if rank < len(exponents):
        raise UserError(
            f"the fit has {counted(len(points), 'sample')} that tell {rank} of {len(exponents)} coefficients apart: "
            "--samples takes more"
        )
    off, leverage = measured - design @ coefficients, _leverage(design)
    errors = _rms(off), _left_out(off, leverage)
    basis = np.linalg.pinv(np.linalg.qr(design, mode="r"))
    weights = np.asarray(coefficients, dtype=np.float64)
    return Polynomial(exponents, centre, scale, weights, *errors, basis, float(leverage.max()))


def _design(exponents: NDArray[np.int64], scaled: Values) -> Values:
    """The value of each term at each point: (points, terms)."""
    return np.asarray(np.prod(scaled[:, None, :] ** exponents[None], axis=2), dtype=np.float64)


def _leverage(design: Values) -> Values:
    """How much each sample's own value weighs in its prediction, 0 to 1."""
    return np.asarray((np.linalg.qr(design)[0] ** 2).sum(1), dtype=np.float64)


def _left_out(off: Values, leverage: Values) -> float | None:
    """Root mean square error of leave-one-out: residual / (1 - leverage). None where a sample fixes a coefficient."""
    spare = 1 - leverage
    return _rms(off / spare) if spare.min() > 1e-9 else None


def _rms(values: Values) -> float:
    return float(np.sqrt(np.mean(values**2)))
