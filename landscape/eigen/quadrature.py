"""Spectral density by stochastic Lanczos quadrature, with the outliers taken out exactly.

For a probe v on the unit sphere, m Lanczos steps with full reorthogonalisation give Gauss quadrature of the spectral
measure of v: nodes theta_j and weights s_1j^2, s being the eigenvectors of the tridiagonal matrix. Its mean over probes
is the spectral density (1/n) sum_i delta(x - lambda_i) (Ubaru, Chen and Saad 2017; Lin, Saad and Yang 2016).

The error of that mean sits in the outliers: a probe sees mass chi^2/n instead of 1/n at each of them, far away from the
bulk. The first probe's run has found the outliers as converged Ritz pairs, for no product more. They enter every
probe's measure as point masses of exactly 1/n, and all probes, the first one's remainder included, sample only the
complement, of mass (n - k)/n.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from landscape.compute.settings import measurement
from landscape.eigen.adapters import as_operator
from landscape.eigen.density import SpectralDensity
from landscape.eigen.operator import Products, orthogonalise, random_direction
from landscape.eigen.pairs import Eigenpairs
from landscape.errors import LandscapeError

# A Ritz pair counts as an eigenpair when its residual is below this share of the spectral range: its value is then off
# by less, and by the square of it over the gap as a rule.
_CONVERGED = 1e-3


class _Runs:
    """Lanczos runs in the complement of the locked rows, on one buffer: locked rows first, then the run's."""

    def __init__(self, products: Products, steps: int, lock: int) -> None:
        operator = products.operator
        self.products = products
        self.steps = steps
        self.locked = 0
        self.rows = torch.empty(lock + steps, operator.size, dtype=operator.dtype, device=operator.device)

    def run(self, start: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
        """Diagonal (m,) and off-diagonal (m - 1,) of the tridiagonal matrix and the last remainder's norm."""
        start, _, norm = orthogonalise(start, self.rows[: self.locked])
        vector = start / norm
        diagonal: list[float] = []
        offdiagonal: list[float] = []
        scale = 0.0
        for step in range(min(self.steps, self.products.operator.size - self.locked)):
            if step:
                offdiagonal.append(norm)
            index = self.locked + step
            self.rows[index] = vector
            product = self.products(vector)
            near = [index - 1, index] if step else [index]
            remainder, coefficients, norm = orthogonalise(product, self.rows[: index + 1], near)
            diagonal.append(float(coefficients[index]))
            scale = max(scale, float(np.linalg.norm(coefficients)), norm)
            if norm <= 16 * torch.finfo(vector.dtype).eps * scale:
                norm = 0.0  # an invariant subspace: the quadrature is exact
                break
            vector = remainder / norm
        if len(diagonal) == self.products.operator.size - self.locked:
            norm = 0.0
        return np.array(diagonal), np.array(offdiagonal), norm

    def lock(self, coefficients: np.ndarray) -> None:
        """Keep Ritz vectors of the last run, coefficients (m, k), as locked rows."""
        run = self.rows[self.locked : self.locked + coefficients.shape[0]]
        vectors = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(run) @ run
        for vector in vectors:
            remainder, _, norm = orthogonalise(vector, self.rows[: self.locked])
            self.rows[self.locked] = remainder / norm
            self.locked += 1


@measurement
def spectral_density(
    operator: Any,
    *,
    probes: int = 10,
    steps: int = 100,
    seed: int = 0,
    deflate: Eigenpairs | None = None,
    lock: int = 64,
    callback: Callable[[int], None] | None = None,
) -> SpectralDensity:
    """Spectral density (1/n) sum_i delta(x - lambda_i) from probes * steps products.

    Parameters
    ----------
    operator
        Symmetric, see `Operator`; or somebody else's, see `as_operator`.
    probes
        Number of random starting vectors, uniform on the unit sphere.
    steps
        Lanczos steps of each; memory (steps + lock) * n numbers.
    seed
        Of the probes.
    deflate
        Eigenpairs already known. Those that converged become point masses.
    lock
        At most so many converged pairs of the first run become point masses, those farthest from the spectrum's
        median first. 0 gives the classical quadrature. 64 holds the outliers of a classifier of some tens of classes.
    callback
        Called after every product with their number.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    LandscapeError
        For a product that is not finite and for fewer than one probe or step.
    """
    if probes < 1 or steps < 1:
        raise LandscapeError(f"spectral density: {probes} probes of {steps} steps; give at least 1 of each")
    operator = as_operator(operator)
    size = operator.size
    products = Products(operator, callback)
    points: list[float] = []
    known = np.flatnonzero(deflate.converged) if deflate is not None else np.zeros(0, dtype=int)
    known = known[: size - 1]
    runs = _Runs(products, min(steps, size), len(known) + min(lock, steps))
    if deflate is not None:
        for index in known:
            runs.rows[runs.locked] = deflate.vectors[:, index]
            runs.locked += 1
        points = [float(value) for value in deflate.values[known]]

    measures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for probe in range(probes):
        diagonal, offdiagonal, last = runs.run(random_direction(operator, seed, "probe", probe))
        nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, offdiagonal)
        weights, residuals = vectors[0] ** 2, last * np.abs(vectors[-1])
        if probe == 0 and lock > 0 and size - runs.locked > 1:
            extent = max([*nodes, *points]) - min([*nodes, *points])
            taken = _outliers(nodes, weights, residuals, _CONVERGED * extent, min(lock, size - runs.locked - 1))
            runs.lock(vectors[:, taken])
            points += [float(node) for node in nodes[taken]]
            rest = np.setdiff1d(np.arange(len(nodes)), taken)
            nodes, weights, residuals = nodes[rest], weights[rest] / weights[rest].sum(), residuals[rest]
        measures.append((nodes, weights, residuals))
    return SpectralDensity.of(size, np.array(points), measures, products.count)


def _outliers(nodes: np.ndarray, weights: np.ndarray, residuals: np.ndarray, allowed: float, limit: int) -> np.ndarray:
    """Indices of converged Ritz pairs, contiguous from both ends inwards, farthest from the median first."""
    median = nodes[min(int(np.searchsorted(np.cumsum(weights), 0.5)), len(nodes) - 1)]
    taken: list[int] = []
    low, high = 0, len(nodes) - 1
    # At least one node stays, to carry the complement's mass.
    while len(taken) < limit and low < high:
        side = high if nodes[high] - median >= median - nodes[low] else low
        if residuals[side] > allowed:
            # This end is done; the other may go on.
            other = low if side == high else high
            if residuals[other] > allowed:
                break
            side = other
        taken.append(side)
        low, high = (low + 1, high) if side == low else (low, high - 1)
    return np.array(taken, dtype=int)
