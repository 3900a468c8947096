"""Spectral density by stochastic Lanczos quadrature, with the outliers taken out exactly.

For a probe v on the unit sphere, m Lanczos steps with full reorthogonalisation give Gauss quadrature of the spectral
measure of v: nodes theta_j and weights s_1j^2, s being the eigenvectors of the tridiagonal matrix. Its mean over probes
is the spectral density (1/n) sum_i delta(x - lambda_i) (Ubaru, Chen and Saad 2017; Lin, Saad and Yang 2016).

The error of that mean sits in the outliers: a probe sees mass chi^2/n instead of 1/n at each of them, far away from the
bulk. The first probe's run has found the outliers as converged Ritz pairs, for no product more. They enter every
probe's measure as point masses of exactly 1/n, and all probes, the first one's remainder included, sample only the
complement, of mass (n - k)/n.

The remainder is a fair sample only if the pairs taken out do not depend on the probe. The Ritz vector of a stretch of
bulk, or of a multiple eigenvalue, is the probe's own projection on it, and takes all of the probe's mass there along.
So residuals must be small beside the gaps, and where a later probe meets an eigenvalue that has been taken out already,
the first one's remainder is replaced by a further run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from landscape.compute.settings import measurement
from landscape.eigen.adapters import as_operator
from landscape.eigen.density import SpectralDensity, spacing
from landscape.eigen.operator import Products, orthogonalise, random_direction, together
from landscape.eigen.pairs import Eigenpairs
from landscape.errors import LandscapeError

# A Ritz pair counts as an eigenpair when its residual is below these shares of the spectral range and of the distance
# to the nearest other one: its value is then off by less, and by the square of it over the gap as a rule, and its
# vector is that of one eigenvalue, not a mixture of many.
_CONVERGED, _ALONE = 1e-3, 0.2

# Nodes, weights and residuals of one probe.
Measure = tuple[np.ndarray, np.ndarray, np.ndarray]


class _Run:
    """One Lanczos run in the complement of the locked rows, on one buffer: locked rows first, then the run's."""

    def __init__(self, start: Tensor, locked: Tensor, steps: int) -> None:
        self.locked, self.steps = len(locked), min(steps, len(start) - len(locked))
        self.rows = torch.empty(self.locked + self.steps, len(start), dtype=start.dtype, device=start.device)
        self.rows[: self.locked] = locked
        start, _, norm = orthogonalise(start, locked)
        self.vector = start / norm
        self.diagonal: list[float] = []
        self.offdiagonal: list[float] = []
        self.scale = 0.0
        self.ended = False

    def take(self, product: Tensor) -> None:
        """One step, given the product with `vector`."""
        step = len(self.diagonal)
        index = self.locked + step
        self.rows[index] = self.vector
        near = [index - 1, index] if step else [index]
        remainder, coefficients, norm = orthogonalise(product, self.rows[: index + 1], near)
        self.diagonal.append(float(coefficients[index]))
        self.scale = max(self.scale, float(np.linalg.norm(coefficients)), norm)
        if index + 1 == len(self.vector) or norm <= 16 * torch.finfo(product.dtype).eps * self.scale:
            norm = 0.0  # an invariant subspace: the quadrature is exact
        # The last one is the remainder's norm.
        self.offdiagonal.append(norm)
        self.ended = norm == 0 or step + 1 == self.steps
        self.vector = remainder / norm if not self.ended else remainder

    def quadrature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Nodes, weights, residuals, and the Ritz vectors' coefficients (m, m)."""
        nodes, vectors = scipy.linalg.eigh_tridiagonal(np.array(self.diagonal), np.array(self.offdiagonal[:-1]))
        return nodes, vectors[0] ** 2, self.offdiagonal[-1] * np.abs(vectors[-1]), vectors

    def with_locked(self, coefficients: np.ndarray) -> Tensor:
        """The locked rows, and those of Ritz vectors with coefficients (m, k)."""
        run = self.rows[self.locked : self.locked + coefficients.shape[0]]
        locked = self.rows[: self.locked]
        for vector in torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(run) @ run:
            remainder, _, norm = orthogonalise(vector, locked)
            locked = torch.cat([locked, remainder[None] / norm])
        return locked


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

    A multiple eigenvalue among the outliers costs another run of `steps` products; a single probe cannot see one.

    Parameters
    ----------
    operator
        Symmetric, see `Operator`; or somebody else's, see `as_operator`.
    probes
        Number of random starting vectors, uniform on the unit sphere.
    steps
        Lanczos steps of each; memory (steps + lock) * n numbers for each of as many probes as the operator likes to
        multiply at once.
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
    locked = torch.empty(0, size, dtype=operator.dtype, device=operator.device)
    if deflate is not None:
        known = np.flatnonzero(deflate.converged)[: size - 1]
        locked = deflate.vectors.T[torch.from_numpy(known).to(operator.device)].contiguous()
        points = [float(value) for value in deflate.values[known]]

    def runs(first: int, count: int) -> list[_Run]:
        """Runs of some probes, side by side."""
        of_probes = [
            _Run(random_direction(operator, seed, "probe", probe), locked, steps)
            for probe in range(first, first + count)
        ]
        while going := [run for run in of_probes if not run.ended]:
            for run, product in zip(going, products.of_each([run.vector for run in going]), strict=True):
                run.take(product)
        return of_probes

    # The first one alone: the others leave out what it finds.
    (first,) = runs(0, 1)
    nodes, weights, residuals, vectors = first.quadrature()
    extent = max([*nodes, *points]) - min([*nodes, *points])
    taken = np.zeros(0, dtype=int)
    if lock > 0 and size - len(locked) > 1:
        alone = _alone(nodes, residuals, extent)
        taken = _outliers(nodes, weights, alone, min(lock, size - len(locked) - 1))
        locked = first.with_locked(vectors[:, taken])
        points += [float(node) for node in nodes[taken]]
    del first, vectors
    rest = np.setdiff1d(np.arange(len(nodes)), taken)
    measures = [(nodes[rest], weights[rest] / weights[rest].sum(), residuals[rest])]
    again = False
    while len(measures) < probes:
        width = min(together(operator, len(locked) + steps), probes - len(measures))
        for run in runs(len(measures), width):
            measure = run.quadrature()[:3]
            again = again or _meets(measure, nodes[taken], residuals[taken], extent, operator.dtype)
            measures.append(measure)
    if again:
        measures[0] = runs(probes, 1)[0].quadrature()[:3]
    return SpectralDensity.of(size, np.array(points), measures, products.count)


def _alone(nodes: np.ndarray, residuals: np.ndarray, extent: float) -> np.ndarray:
    """Whether each Ritz pair is an eigenpair of one eigenvalue, as far as the run can see."""
    return residuals <= np.minimum(_CONVERGED * extent, _ALONE * spacing(nodes))


def _meets(measure: Measure, points: np.ndarray, errors: np.ndarray, extent: float, dtype: torch.dtype) -> bool:
    """Whether an eigenvalue of a measure is that of a point mass, too, within the residuals of both and rounding."""
    nodes, _, residuals = measure
    alone = _alone(nodes, residuals, extent)
    distance = np.abs(nodes[alone, None] - points) - residuals[alone, None] - errors
    return bool((distance <= 64 * torch.finfo(dtype).eps * extent).any())


def _outliers(nodes: np.ndarray, weights: np.ndarray, converged: np.ndarray, limit: int) -> np.ndarray:
    """Indices of converged Ritz pairs, contiguous from both ends inwards, farthest from the median first."""
    median = nodes[min(int(np.searchsorted(np.cumsum(weights), 0.5)), len(nodes) - 1)]
    taken: list[int] = []
    low, high = 0, len(nodes) - 1
    # At least one node stays, to carry the complement's mass.
    while len(taken) < limit and low < high:
        side = high if nodes[high] - median >= median - nodes[low] else low
        if not converged[side]:
            # This end is done; the other may go on.
            other = low if side == high else high
            if not converged[other]:
                break
            side = other
        taken.append(side)
        low, high = (low + 1, high) if side == low else (low, high - 1)
    return np.array(taken, dtype=int)
