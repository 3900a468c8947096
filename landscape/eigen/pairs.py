"""Eigenpairs with what is known about their errors, whichever solver they come from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from landscape.eigen.search_space import SearchSpace

Which = Literal["LA", "SA", "LM", "BE"]
# Called with (products, current wanted values, their residuals, products expected to be left or None).
Callback = Callable[[int, np.ndarray, np.ndarray, int | None], None]

# Eigenvalues below this share of the largest one are resolved relative to it: a zero has no relative accuracy.
FLOOR = 1e-3


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues, each with what is known about its error.

    Attributes
    ----------
    values
        (k,) float64; descending for LA, LM (by magnitude) and BE, ascending for SA.
    vectors
        (n, k) orthonormal, in the operator's dtype on its device.
    residuals
        (k,) ||A y - theta y||: an eigenvalue of A lies within this distance of the value, always. The products'
        rounding is added, where the operator states it (``relative_rounding``, relative to its norm): what is meant is
        the eigenvalue of the exact operator, not of the one that float32 makes of it.
    errors
        (k,) the sharper estimate min(residual, ||R||^2 / gap), which takes the rest of the spectrum to lie where the
        search space saw it (Li and Li 2005, "A note on eigenvalues of perturbed Hermitian matrices"), and the products'
        rounding. Of other solvers than ours, whose search space is not known, the residual.
    converged
        (k,) bool: the residual is finite, and error <= tolerance * max(|value|, 1e-3 of the largest Ritz value) plus
        rounding.
    products
        Products with the operator.
    missed_probability
        Bound on the probability that an eigenvector orthogonal to the search space, with an eigenvalue beyond the last
        returned one, was missed: a further copy of a multiple eigenvalue. 1 when it was not looked for.
    smallest, smallest_residual
        The smallest Ritz value, never below the smallest eigenvalue but for rounding, and its residual; as sharp as
        was asked for.
    space
        The search space, if it was asked for: `landscape.eigen.trace` goes on from it.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    errors: np.ndarray
    converged: np.ndarray
    products: int
    missed_probability: float
    smallest: float
    smallest_residual: float
    space: SearchSpace | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        lines = [
            f"  {value:.6g} within {residual:.1g}" + ("" if converged else ", not converged")
            for value, residual, converged in zip(self.values, self.residuals, self.converged, strict=True)
        ]
        return "\n".join(
            [
                f"Eigenpairs({len(self.values)} of {len(self.vectors):,} dimensions, {self.products:,} products):",
                *lines,
                f"  smallest {self.smallest:.6g} within {self.smallest_residual:.1g}",
            ]
        )


def wanted(values: np.ndarray, count: int, which: Which) -> np.ndarray:
    """Indices into ascending `values` of the wanted ones, in the order in which they are reported."""
    count = min(count, len(values))
    if which == "LA":
        return np.arange(len(values))[::-1][:count]
    if which == "SA":
        return np.arange(count)
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")[:count]
    low = count // 2
    return np.r_[np.arange(len(values))[::-1][: count - low], np.arange(low)[::-1]]
