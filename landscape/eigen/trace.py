"""Trace and Frobenius norm of a symmetric operator, each with a standard error that tells the truth.

All methods draw probes w uniform on the sphere of radius sqrt(n). E[w' A w] = tr A, with variance
2 n / (n + 2) * (||A||_F^2 - (tr A)^2 / n): less than Gaussian probes have, and independent of the basis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.compute.settings import measurement
from landscape.eigen.adapters import as_operator
from landscape.eigen.estimate import Estimate, mean_of, widening
from landscape.eigen.operator import Products, norm_of, orthogonalise, random_direction, together
from landscape.eigen.search_space import SearchSpace
from landscape.errors import LandscapeError
from landscape.metrics.confidence import Z

Method = Literal["krylov", "xtrace", "hutch++", "hutchinson"]

# XTrace's leave-one-out samples share all but one of their probes, so their variance over their number understates the
# variance of the mean (the paper offers it as it is: 95 % intervals then hold as rarely as 85 % of the time). By these
# factors for the trace and the squared norm: medians over Hessian-like, positive and indefinite spectra and 8 to 30
# probes. The jackknife, which needs no such factor, errs two to four times the other way.
_SHARED = (1.5, 2.8)


@dataclass
class _Sketch:
    """Q, an orthonormal basis of the products A W with the probes W, and everything small that follows from A Q.

    Rows are vectors. The basis grows by Gram-Schmidt, so that it is nested: more probes never undo a product.
    """

    products: Products
    seed: int
    capacity: int

    def __post_init__(self) -> None:
        operator = self.products.operator
        shape = (self.capacity, operator.size)
        self.count = 0
        self.probes = torch.empty(shape, dtype=operator.dtype, device=operator.device)
        self.basis = torch.empty_like(self.probes)
        self.images = torch.empty_like(self.probes)  # A Q
        self.triangle = np.zeros((self.capacity, self.capacity))
        self.forms = np.zeros(self.capacity)  # w' A w
        self.lengths = np.zeros(self.capacity)  # ||A w||^2
        self.complete = False

    def grow(self, count: int) -> None:
        """Up to `count` probes, two products each; fewer when the product of one adds nothing to the basis."""
        operator = self.products.operator
        while self.count < count and not self.complete:
            first = self.count
            places = range(first, min(first + together(operator), count))
            for index in places:
                self.probes[index] = random_direction(operator, self.seed, "trace", index) * np.sqrt(operator.size)
            probes = self.probes[first : places.stop]
            for probe, image in zip(probes, self.products.of_each(probes), strict=True):
                self._add(probe, image)
                if self.complete:
                    break
            images = self.products.of_each(self.basis[first : self.count])
            for index, image in enumerate(images, first):
                self.images[index] = image

    def _add(self, probe: Tensor, image: Tensor) -> None:
        """Take a probe's product into the basis, unless it adds nothing: then the basis is complete."""
        index, length = self.count, norm_of(image)
        remainder, coefficients, norm = orthogonalise(image, self.basis[:index])
        if norm <= 1e3 * torch.finfo(image.dtype).eps * length or index >= self.products.operator.size:
            # A random combination of A's columns lies in the span of the earlier ones: so do they all.
            self.complete = True
            return
        self.forms[index], self.lengths[index] = float(torch.dot(probe, image)), length**2
        self.basis[index] = remainder / norm
        self.triangle[:index, index] = coefficients
        self.triangle[index, index] = norm
        self.count += 1

    def small(self) -> "_Small":
        """Everything that the estimators need, in coordinates of Q."""
        basis, images, probes = (rows[: self.count] for rows in (self.basis, self.images, self.probes))
        projected = _cpu(basis @ images.T)
        return _Small(
            size=self.products.operator.size,
            triangle=self.triangle[: self.count, : self.count],
            projected=(projected + projected.T) / 2,
            gram=_cpu(images @ images.T),
            inner=_cpu(basis @ probes.T),
            cross=_cpu(images @ probes.T),
            forms=self.forms[: self.count],
            lengths=self.lengths[: self.count],
        )


@dataclass(frozen=True)
class _Small:
    """k x k summary of a sketch: R with A W = Q R, Q'AQ, (AQ)'AQ, Q'W, (AQ)'W, w'Aw and ||Aw||^2."""

    size: int
    triangle: np.ndarray
    projected: np.ndarray
    gram: np.ndarray
    inner: np.ndarray
    cross: np.ndarray
    forms: np.ndarray
    lengths: np.ndarray

    def left_out(self) -> np.ndarray:
        """S, unit columns: column i spans what probe i alone contributes to the basis (R^-T, normalised)."""
        inverse = np.linalg.inv(self.triangle).T
        return inverse / np.linalg.norm(inverse, axis=0)


def _cpu(matrix: Tensor) -> np.ndarray:
    return matrix.double().cpu().numpy()


def _xtrace(small: _Small) -> tuple[np.ndarray, np.ndarray]:
    """XTrace's leave-one-out samples (k,) of the trace and of the squared Frobenius norm.

    Sample i knows A on the span Q_i of the other probes' products exactly and estimates the rest from probe i, which
    is independent of Q_i: with u = (I - Q_i Q_i') w_i stretched to length sqrt(n - k + 1),
    tr A = E[tr(Q_i' A Q_i) + u' A u]  and  ||A||_F^2 = E[||A Q_i||_F^2 + ||A u||^2].
    """
    single, projected, gram = small.left_out(), small.projected, small.gram
    # Coefficients in Q of the part of w_i inside Q_i.
    inside = small.inner - single * (single * small.inner).sum(axis=0)
    stretch = (small.size - len(small.forms) + 1) / (small.size - (inside**2).sum(axis=0))
    quadratic = small.forms - 2 * (small.cross * inside).sum(axis=0) + (inside * (projected @ inside)).sum(axis=0)
    # A w_i = Q R e_i, so (A w_i)' A Q x_i = R_i' H x_i.
    crossed = (small.triangle * (projected @ inside)).sum(axis=0)
    squared = small.lengths - 2 * crossed + (inside * (gram @ inside)).sum(axis=0)
    trace = np.trace(projected) - (single * (projected @ single)).sum(axis=0) + stretch * quadratic
    frobenius = np.trace(gram) - (single * (gram @ single)).sum(axis=0) + stretch * np.maximum(squared, 0)
    return trace, frobenius


def _exact(products: Products) -> tuple[float, float]:
    """Trace and squared Frobenius norm from the products with all unit vectors."""
    operator = products.operator
    trace = squares = 0.0
    width = together(operator)
    for start in range(0, operator.size, width):
        places = range(start, min(start + width, operator.size))
        units = torch.zeros(len(places), operator.size, dtype=operator.dtype, device=operator.device)
        units[:, start : places.stop].fill_diagonal_(1)
        for index, column in zip(places, products.of_each(units), strict=True):
            trace += float(column[index])
            squares += norm_of(column) ** 2
    return trace, squares


@dataclass(frozen=True)
class Moments:
    """Trace and squared Frobenius norm from the same products."""

    trace: Estimate
    squares: Estimate

    @property
    def frobenius(self) -> Estimate:
        """||A||_F, its standard error by the delta method: d sqrt(s) = ds / (2 sqrt(s))."""
        squares = self.squares
        value = float(np.sqrt(max(squares.value, 0.0)))
        stderr = squares.stderr / (2 * value) if value > 0 else squares.stderr
        return Estimate(value, stderr, squares.samples, squares.products)


@measurement
def moments(
    operator: Any,
    *,
    method: Method = "krylov",
    products: int = 30,
    tolerance: float | None = None,
    of: Literal["trace", "frobenius"] = "trace",
    seed: int = 0,
    space: SearchSpace | None = None,
    callback: Callable[[int], None] | None = None,
) -> Moments:
    """Trace tr A and squared Frobenius norm ||A||_F^2 = tr A^2 from the same products.

    Parameters
    ----------
    operator
        Symmetric, see `Operator`; or somebody else's, see `as_operator`.
    method
        "krylov" (deflated Hutchinson after Chen and Hallman 2023, "Krylov-aware stochastic trace estimation"): exact
        on a Krylov space of half of the products, independent probes in its complement. The default: on Hessians of
        trained networks it is the most accurate at 30 products, and since its samples are independent its standard
        error needs no correction. "xtrace" (Epperly, Tropp and Webber 2024, "XTrace: Making the most of every sample",
        with spherical normalisation): exact on the range of half of the products, every probe used for both halves.
        "hutch++" (Meyer et al. 2021, Algorithm 1): a third of the products each for range, its image, and probes.
        "hutchinson": the mean of w' A w.
    products
        Products to spend; with a `tolerance`, at most. Memory in numbers: krylov products / 2 * n, xtrace
        3 / 2 * products * n, hutch++ products * n, hutchinson n; and as many vectors as are multiplied together.
    tolerance
        Stop when the 95 % interval of `of` is within this share of the estimate. Looked at after every fifth more
        samples only, since stopping at a lucky moment narrows the interval.
    of
        What the tolerance is about.
    seed
        Of the probes.
    space
        A search space of the same operator (:attr:`landscape.eigen.Eigenpairs.space`) that "krylov" goes on from, and
        grows when it is small: the products saved go to probes in its complement.
    callback
        Called after every product with their number.

    Returns
    -------
    Moments
        Both exact, with standard error 0, when as many products as the dimension are allowed.

    Raises
    ------
    LandscapeError
        For a product that is not finite and for too few products (4 for krylov and xtrace, 6 for hutch++,
        2 for hutchinson).
    """
    operator = as_operator(operator)
    size = operator.size
    least = {"krylov": 4, "xtrace": 4, "hutch++": 6, "hutchinson": 2}
    if method not in least:
        raise LandscapeError(f"trace: method is {method!r}; choose krylov, xtrace, hutch++ or hutchinson")
    if tolerance is not None and not tolerance > 0:
        raise LandscapeError(f"trace: tolerance is {tolerance}; give a relative error above 0")
    counted = Products(operator, callback)
    if products >= size:
        trace, squares = _exact(counted)
        return Moments(Estimate(trace, 0.0, size, size), Estimate(squares, 0.0, size, size))
    if products < least[method]:
        raise LandscapeError(f"trace: {products} products are too few for {method}; allow {least[method]} or more")

    if method == "krylov":
        dimension = products // 2 if tolerance is None else min(products // 2, 20)
        space = _krylov_space(counted, dimension, seed, space)
        return _beyond(space, counted, products, tolerance, of, seed)
    if method == "xtrace":
        return _by_xtrace(counted, products // 2, tolerance, of, seed)
    sketch = _Sketch(counted, seed, products // 3 if method == "hutch++" else 0)
    sketch.grow(sketch.capacity)
    if sketch.complete:
        return _complete(sketch)
    small = sketch.small()
    known = (float(np.trace(small.projected)), float(np.trace(small.gram)))
    return _by_probes(counted, sketch.basis[: sketch.count], known, products, tolerance, of, seed)


def _good(estimates: Moments, of: str, tolerance: float) -> bool:
    estimate = estimates.trace if of == "trace" else estimates.frobenius
    return bool(Z * estimate.stderr <= tolerance * abs(estimate.value))


def _complete(sketch: _Sketch) -> Moments:
    """Moments of an operator whose whole range is in the sketch: exact."""
    small = sketch.small()
    count = sketch.count + 1
    return Moments(
        Estimate(float(np.trace(small.projected)), 0.0, count, sketch.products.count),
        Estimate(float(np.trace(small.gram)), 0.0, count, sketch.products.count),
    )


def _by_xtrace(counted: Products, probes: int, tolerance: float | None, of: str, seed: int) -> Moments:
    sketch = _Sketch(counted, seed, probes)
    look = probes if tolerance is None else min(probes, 10)
    while True:
        sketch.grow(look)
        if sketch.complete:
            return _complete(sketch)
        trace, squares = (
            Estimate(plain.value, plain.stderr * np.sqrt(shared), plain.samples, plain.products)
            for plain, shared in zip((mean_of(x, counted.count) for x in _xtrace(sketch.small())), _SHARED, strict=True)
        )
        estimates = Moments(trace, squares)
        if look == probes or (tolerance is not None and _good(estimates, of, tolerance)):
            return estimates
        look = min(probes, look + max(1, look // 5))


def _krylov_space(counted: Products, dimension: int, seed: int, space: SearchSpace | None) -> SearchSpace:
    """A Krylov space of a random vector, or the one that is there, grown to this dimension.

    It costs one product per dimension where a sketch costs two, and leans to both ends of the spectrum, where the
    variance comes from. Half of the products make it; with a tolerance, half of what the smallest useful number of
    probes (10) leaves is enough.
    """
    if space is None:
        space = SearchSpace(counted, dimension + 1, None)
    elif space.rows.shape[1] != counted.operator.size:
        raise LandscapeError(
            f"trace: the space is of dimension {space.rows.shape[1]}, the operator of {counted.operator.size}"
        )
    space.products = counted
    while space.processed < dimension and space.used < space.capacity:
        if space.pending == 0:
            space.add(random_direction(counted.operator, seed, "trace", "start", space.processed))
        space.step()
    return space


def _beyond(
    space: SearchSpace, counted: Products, products: int, tolerance: float | None, of: str, seed: int
) -> Moments:
    """Exact on a search space, Hutchinson on its complement."""
    size = counted.operator.size
    block = space.projected[space.block, space.block]
    outside = space.projected[space.block.stop : space.used, space.block]
    # ||A||_F^2 of [[T, B'], [B, C]]: what is left for the probes is C alone.
    known = (float(np.trace(block)), float((block**2).sum() + 2 * (outside**2).sum()))
    if space.processed == size:
        return Moments(Estimate(known[0], 0.0, size, counted.count), Estimate(known[1], 0.0, size, counted.count))
    return _by_probes(counted, space.rows[space.block], known, products, tolerance, of, seed, complement_only=True)


def _by_probes(
    counted: Products,
    basis: Tensor,
    known: tuple[float, float],
    products: int,
    tolerance: float | None,
    of: str,
    seed: int,
    *,
    complement_only: bool = False,
) -> Moments:
    """What is known on the rows `basis`, plus Hutchinson on their complement.

    `known` holds the trace of the block and, of the squared norm, that of A Q or (complement_only) everything but the
    block of the complement.
    """
    left = counted.operator.size - len(basis)
    # One row per probe: the form, the squared norm of the product, and of its part in the complement.
    samples: list[tuple[float, float, float]] = []

    def take(number: int) -> None:
        probes = []
        for index in range(len(samples), len(samples) + number):
            probe, _, norm = orthogonalise(random_direction(counted.operator, seed, "trace", "rest", index), basis)
            probes.append(probe * (np.sqrt(left) / norm))
        for probe, image in zip(probes, counted.of_each(probes), strict=True):
            inner = orthogonalise(image, basis)[2] ** 2
            samples.append((float(torch.dot(probe, image)), inner if complement_only else norm_of(image) ** 2, inner))

    # As many as are paid for, at least one; with a tolerance, looks at what there is in between.
    most = max(1, products - counted.count)
    look = most if tolerance is None else 10
    width = together(counted.operator)
    while True:
        while len(samples) < min(look, most):
            take(min(width, min(look, most) - len(samples)))
        estimates = _estimated(np.array(samples), known, left, counted.count)
        if len(samples) >= most or (tolerance is not None and _good(estimates, of, tolerance)):
            return estimates
        look += max(1, look // 5)


def _estimated(samples: np.ndarray, known: tuple[float, float], left: int, products: int) -> Moments:
    """Moments from what is known and the probes' (form, squared norm, its part in the complement) of a dimension."""
    forms, squares, inner = samples.T
    trace = mean_of(known[0] + forms, products)
    # The variance of a form on the sphere is known but for ||C||_F^2, which the same products estimate: joined with the
    # spread of the samples it steadies the standard error of few samples.
    spread = float(np.mean(inner)) - (trace.value - known[0]) ** 2 / left
    variance = max(spread, 0.0) * 2 * left / (left + 2)
    formula = np.sqrt(variance / len(samples)) * widening(len(samples))
    stderr = float(np.sqrt((trace.stderr**2 + formula**2) / 2))
    return Moments(Estimate(trace.value, stderr, trace.samples, trace.products), mean_of(known[1] + squares, products))


def trace(
    operator: Any,
    *,
    method: Method = "krylov",
    products: int = 30,
    tolerance: float | None = None,
    seed: int = 0,
    space: SearchSpace | None = None,
    callback: Callable[[int], None] | None = None,
) -> Estimate:
    """Tr A with its standard error; arguments as in `moments`."""
    return moments(
        operator, method=method, products=products, tolerance=tolerance, seed=seed, space=space, callback=callback
    ).trace


def frobenius(
    operator: Any,
    *,
    method: Method = "krylov",
    products: int = 30,
    tolerance: float | None = None,
    seed: int = 0,
    space: SearchSpace | None = None,
    callback: Callable[[int], None] | None = None,
) -> Estimate:
    """||A||_F = (sum of squared eigenvalues)^(1/2) with its standard error; arguments as in `moments`."""
    return moments(
        operator,
        of="frobenius",
        method=method,
        products=products,
        tolerance=tolerance,
        seed=seed,
        space=space,
        callback=callback,
    ).frobenius
