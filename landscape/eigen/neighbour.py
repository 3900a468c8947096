r"""A neighbouring operator whose products are cheap, as a start and a preconditioner.

The curvature over a sample of the examples is near the curvature over all of them. Its eigenvectors are a start, and
its search space solves, approximately, the equation that corrects a Ritz pair :math:`(\theta, u)` with residual *r*,

.. math:: (\theta - A)\, t = r \text{ in the complement of } u, \qquad
    t = (\theta - B)^{-1} (r - \alpha u), \quad u^\top t = 0,

with the neighbour *B* in place of *A* (Olsen, Jorgensen and Simons 1990; Sleijpen and van der Vorst 1996). Each round
of corrections shrinks the errors of the vectors by about how far *B* is from *A*, where a Krylov space needs several
products, and the corrections of all pairs are multiplied together. Nothing is believed: Ritz values and residuals are
those of *A* on what was multiplied with it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.eigen.operator import Products
from landscape.eigen.pairs import Eigenpairs, Which, wanted
from landscape.eigen.search_space import SearchSpace
from landscape.errors import LandscapeError

# Products of the neighbour per correction: what its space does not hold is the bulk, small beside the values sought;
# and as many more for a value within that bulk, below this share of the largest.
_ROUNDS, _FURTHER = 2, 6
_WITHIN_BULK = 0.1
# Nearer to a Ritz value than this share of the largest one, a shift is as good as on it.
_NEAREST = 1e-3


class Neighbour:
    """The search space of a neighbouring operator.

    Parameters
    ----------
    pairs
        Its eigenpairs, found with ``keep_space``. The space grows.
    size
        Dimension of the operator whose neighbour it is.

    Raises
    ------
    LandscapeError
        When the pairs hold no space, or one of another dimension.
    """

    def __init__(self, pairs: Eigenpairs, size: int) -> None:
        if pairs.space is None:
            raise LandscapeError("eigenpairs: the neighbour's pairs hold no search space; find them with keep_space")
        if pairs.space.rows.shape[1] != size:
            raise LandscapeError(
                f"eigenpairs: the neighbour has {pairs.space.rows.shape[1]} dimensions, the operator {size}; "
                "give one of the same parameters"
            )
        self.space: SearchSpace = pairs.space
        self.products = pairs.products
        self.space.products = Products(self.space.products.operator)

    def starts(self, count: int, which: Which, *, smallest: bool) -> Tensor:
        """Ritz vectors (n, k) of the wanted pairs, of one more, and of the smallest if that is wanted, too.

        One more, because an error estimate rests on what comes next in the spectrum.
        """
        ritz = self.space.ritz()
        chosen = wanted(ritz.values, count + 1, which)
        if smallest and 0 not in chosen:
            chosen = np.append(chosen, 0)
        return self.space.vectors(ritz.coefficients[:, chosen])

    def corrections(self, values: Sequence[float], vectors: Tensor, residuals: Tensor) -> Tensor:
        """Corrections (n, m) of Ritz pairs: values (m,), vectors (n, m), residuals (n, m).

        Of a pair within the bulk, which must come last, the residual itself is one more: near other values a neighbour
        says little, and so that pair moves on as in a Krylov space.
        """
        space = self.space
        if space.used + (_ROUNDS + 1) * len(values) + _FURTHER >= space.capacity:
            ritz = space.ritz()
            both = [
                *range(min(space.capacity // 10, len(ritz.values))),
                *range(max(0, len(ritz.values) - space.capacity // 4), len(ritz.values)),
            ]
            space.forget_pending()
            space.restart(ritz, np.unique(both))
        added = sum(space.add(residual) for residual in residuals.T)
        for _ in range(_ROUNDS):
            # The newest rows first: the residuals, and then what their products led to.
            space.bring_forward(added)
            space.step(added)
        within = abs(values[-1]) < _WITHIN_BULK * space.scale
        for _ in range(_FURTHER if within else 0):
            space.bring_forward(1)
            space.step()
        ritz = space.ritz()
        theta = torch.tensor(values, dtype=torch.float64)
        least = _NEAREST * ritz.scale
        shift, distance = (
            torch.where(one.abs() < least, torch.where(one < 0, -least, least), one)
            for one in (theta, theta - torch.from_numpy(ritz.values)[:, None])
        )
        weights = (1 / distance - 1 / shift).to(vectors)
        rotation = torch.from_numpy(ritz.coefficients).to(vectors)
        rows = space.rows[space.block]

        def solved(right: Tensor) -> Tensor:
            """(theta - B)^-1 of columns, B taken as zero outside its space."""
            inside = rotation @ (weights * (rotation.T @ (rows @ right)))
            return torch.addmm(right / shift.to(right), rows.T, inside)

        along, across = solved(vectors), solved(residuals)
        # A pair that the equation says nothing of (0 / 0) is left as it is.
        corrections = (across - along * ((vectors * across).sum(0) / (vectors * along).sum(0))).nan_to_num(0, 0, 0)
        return torch.cat([corrections, residuals[:, -1:]], dim=1) if within else corrections
