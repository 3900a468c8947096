"""Further copies of a multiple eigenvalue, which products of one starting vector cannot see.

When everything wanted has converged, a random direction orthogonal to the search space is followed for a few products:
a missed eigenvector u orthogonal to the space, A u = lambda u, has overlap g with it, and the Lanczos polynomial p of
that run obeys |p(lambda)| <= 1/|g| (Hochstenbach 2013, "Probabilistic upper bounds for the matrix two-norm"). The law
of g on the sphere is known, so the probability that a copy beyond the last wanted value escaped has a bound, which is
reported (`Eigenpairs.missed_probability`).
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from scipy.special import betainc

from landscape.eigen.pairs import Which


@dataclass
class CopyCheck:
    """A run from a random direction outside the search space, looking for copies that the space cannot see.

    With q_i its vectors, u a missed eigenvector orthogonal to the space and to all that the space can still lead to,
    <u, q_i> = <u, q_0> p_i(lambda): the three-term recurrence holds whatever else of the space is taken out of q_i.

    Attributes
    ----------
    dimension
        Of the complement of the search space, where the direction was drawn.
    limit
        Products to spend, at most.
    diagonal, offdiagonal
        Of the run's tridiagonal matrix.
    spoilt
        Whether the run has met a copy, or its vectors have been mixed into others: another one is needed.
    """

    dimension: int
    limit: int
    diagonal: list[float] = field(default_factory=list)
    offdiagonal: list[float] = field(default_factory=list)
    spoilt: bool = False

    @property
    def ended(self) -> bool:
        """Whether the run has met an invariant subspace."""
        return bool(self.offdiagonal) and self.offdiagonal[-1] == 0

    def values(self) -> np.ndarray:
        """Ritz values of the run alone."""
        return scipy.linalg.eigvalsh_tridiagonal(np.array(self.diagonal), np.array(self.offdiagonal[:-1]))

    def missed(self, ends: list[tuple[int, float]]) -> float:
        """Bound on the probability that an eigenvector with sign * eigenvalue >= level was missed, at any of `ends`."""
        if self.spoilt or not self.diagonal:
            return 1.0
        total = 0.0
        for sign, level in ends:
            distance = level - sign * self.values()
            if self.ended and distance.min() >= 0:
                continue  # an invariant subspace holds every eigenvector that the direction overlaps with
            if distance.min() <= 0:
                return 1.0
            logarithm = float(np.log(distance).sum() - np.log(self.offdiagonal).sum())
            if logarithm <= 0:
                return 1.0
            if self.dimension > 1:
                total += float(betainc(0.5, (self.dimension - 1) / 2, np.exp(-2 * logarithm)))
        return min(1.0, total)

    def found(self, ends: list[tuple[int, float]]) -> bool:
        """Whether the run has met a value beyond a level."""
        values = self.values()
        return any(bool((sign * values > level).any()) for sign, level in ends)


def ends_of(values: np.ndarray, chosen: np.ndarray, which: Which, margin: float) -> list[tuple[int, float]]:
    """(sign, level) of the ends beyond which a missed eigenvalue would change the answer."""
    picked = values[chosen]
    if which == "LA":
        return [(1, picked.min() + margin)]
    if which == "SA":
        return [(-1, -picked.max() + margin)]
    if which == "LM":
        level = np.abs(picked).min() + margin
        return [(1, level), (-1, level)]
    low = len(picked) // 2
    ends = [(1, picked[: len(picked) - low].min() + margin)]
    return [*ends, (-1, -picked[len(picked) - low :].max() + margin)] if low else ends
