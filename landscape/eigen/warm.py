"""Eigenpairs of a matrix that changes little from one time to the next: each solve starts where the last one ended."""

from typing import Literal

from torch import Tensor

from landscape.eigen.operator import Operator
from landscape.eigen.pairs import Eigenpairs
from landscape.eigen.solvers import eigenpairs


class WarmStarts:
    """The eigenvectors of the last solve of each of several matrices, by name, that the next one starts from.

    Parameters
    ----------
    vectors
        (P, k) by name; none for a cold start.

    Notes
    -----
    A Rayleigh quotient's error is quadratic in the angle between the old and the new eigenvector, and the Krylov space
    that a product adds takes off most of the rest. One eigenvector more than wanted is carried along: at the edge of
    stability the largest eigenvalues lie close together, and what is second now is first at the next time.
    """

    def __init__(self, vectors: dict[str, Tensor] | None = None) -> None:
        self.vectors: dict[str, Tensor] = dict(vectors or {})

    def solve(
        self,
        operator: Operator,
        name: str,
        *,
        count: int = 1,
        which: Literal["LA", "SA"] = "LA",
        products: int,
        cold_products: int,
        tolerance: float,
        seed: int = 0,
    ) -> Eigenpairs:
        """The largest (LA) or smallest (SA) eigenvalues, and one more.

        Parameters
        ----------
        operator
            The matrix of this time.
        name
            Which of the matrices, and which end of it.
        count
            Number of eigenvalues that are wanted.
        which
            Which end.
        products, cold_products
            Products at most, warm and cold; fewer when `tolerance` is reached.
        tolerance
            Relative error.
        seed
            Of a cold start.
        """
        start = self.vectors.get(name)
        if start is not None and start.shape[0] != operator.size:
            start = None
        pairs = eigenpairs(
            operator,
            # One more than wanted: a single pair can converge to an eigenvalue that is not the outermost.
            count + 1,
            which=which,
            tolerance=tolerance,
            start=start,
            seed=seed,
            max_products=cold_products if start is None else products,
            # Whether the start has missed one is asked once: later solves carry on from there.
            confidence=0.95 if start is None else 0,
            keep_space=True,
        )
        # The outermost first: the products of a start follow its first column.
        self.vectors[name] = pairs.vectors
        return pairs
