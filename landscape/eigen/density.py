"""A spectral density as measured: nodes and weights of every probe, and curves drawn from them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr

from landscape.eigen.estimate import Estimate, widening
from landscape.errors import LandscapeError
from landscape.metrics.confidence import Z

GridScale = Literal["linear", "symlog"]


@dataclass(frozen=True)
class DensityCurve:
    """A density drawn on a grid of cells; its integral is exactly 1.

    Attributes
    ----------
    edges
        (c + 1,) edges of the cells, in units of the eigenvalue.
    density
        (c,) mean density in each cell, mass per unit of eigenvalue; sum(density * diff(edges)) = 1.
    stderr
        (c,) its standard error over probes, widened for few probes (see `Estimate`).
    lower, upper
        (c,) the pointwise 95 % band, density -+ Z stderr, cut at 0.
    width
        (c,) kernel width (standard deviation) that a converged eigenvalue in the cell is drawn with.
    """

    edges: np.ndarray
    density: np.ndarray
    stderr: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    width: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """(c,) centres of the cells."""
        return (self.edges[1:] + self.edges[:-1]) / 2


@dataclass(frozen=True)
class SpectralDensity:
    """Spectral measure of a symmetric operator by quadrature, probe by probe.

    Attributes
    ----------
    nodes
        (p, m) eigenvalue nodes of every probe; the first `points` columns are eigenvalues taken out exactly.
    weights
        (p, m) their masses; every row sums to 1. Unused places have weight 0.
    residuals
        (p, m) distance from each node within which an eigenvalue lies: the node's own resolution.
    points
        Number of eigenvalues that every probe holds as point masses of exactly 1/n.
    size
        The dimension n.
    products
        Products with the operator.
    """

    nodes: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    points: int
    size: int
    products: int

    @classmethod
    def of(
        cls, size: int, points: np.ndarray, measures: list[tuple[np.ndarray, np.ndarray, np.ndarray]], products: int
    ) -> "SpectralDensity":
        """Join eigenvalues `points` (k,) and one measure of the complement (nodes, weights, residuals) a probe."""
        length = max(len(nodes) for nodes, _, _ in measures)
        rows = []
        for nodes, weights, residuals in measures:
            missing = length - len(nodes)
            fraction = (size - len(points)) / size
            rows.append(
                (
                    np.r_[points, nodes, np.full(missing, nodes[-1])],
                    np.r_[np.full(len(points), 1 / size), weights * fraction / weights.sum(), np.zeros(missing)],
                    np.r_[np.zeros(len(points)), residuals, np.zeros(missing)],
                )
            )
        nodes, weights, residuals = (np.array(column) for column in zip(*rows, strict=True))
        return cls(nodes, weights, residuals, len(points), size, products)

    @property
    def probes(self) -> int:
        """Number of probes p."""
        return self.nodes.shape[0]

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest node with mass."""
        held = self.nodes[self.weights > 0]
        return float(held.min()), float(held.max())

    def distribution(self, x: np.ndarray) -> np.ndarray:
        """Mass at or below each x (k,), the mean over probes of their step functions, (k,)."""
        nodes, weights = self.nodes.ravel(), self.weights.ravel() / self.probes
        order = np.argsort(nodes, kind="stable")
        cumulative = np.r_[0.0, np.cumsum(weights[order])]
        return cumulative[np.searchsorted(nodes[order], x, side="right")]

    def mass_above(self, threshold: float) -> Estimate:
        """Share of the eigenvalues above a threshold, with its standard error.

        A node that the threshold cuts (its kernel, as wide as its residual and at most half the distance to its
        neighbour, reaches over it) counts by the share of the kernel above. Outliers taken out count exactly.

        The standard error joins two parts. Sampling: of a share a of the N dimensions left to the probes, a probe on
        the sphere sees a Beta-distributed share with variance 2 a (1 - a) / (N + 2); p probes know as much as
        v = p (N + 2) / 2 coin tosses, and a is shrunk towards 1/2 as Agresti and Coull (1998) do, since near 0 and 1
        the plain estimate is overconfident. Discreteness of the quadrature: a fifth of the mass that the threshold
        cuts, the ratio seen on decaying, normal and uniform spectra, and at least one eigenvalue of what is cut; it
        vanishes as the steps resolve the spectrum there.
        """
        fraction = np.empty_like(self.nodes)
        for probe in range(self.probes):
            held = self.weights[probe] > 0
            width = np.zeros(len(held))
            width[held] = np.minimum(self.residuals[probe, held], spacing(self.nodes[probe, held]) / 2)
            fraction[probe] = _above(self.nodes[probe], width, threshold)
        samples = (self.weights * fraction).sum(axis=1)
        value = float(samples.mean())
        cut = float((self.weights * np.minimum(fraction, 1 - fraction)).sum(axis=1).mean())
        left = self.size - self.points
        exact = float((self.nodes[0, : self.points] > threshold).sum()) / self.size
        sampled = np.clip((value - exact) * self.size / left, 0.0, 1.0)
        # 1e-12: rounding of the sum of masses, so that an exact share is within its own interval.
        discreteness = max(cut / 5, min(cut, 1 / self.size), 1e-12)
        if min(sampled, 1 - sampled) < 1e-9:
            return Estimate(value, discreteness, self.probes, self.products)
        tosses = self.probes * (left + 2) / 2
        shrunk = (sampled + 2 / tosses) / (1 + 4 / tosses)
        sampling = np.sqrt(shrunk * (1 - shrunk) / tosses) * left / self.size
        return Estimate(value, float(np.hypot(sampling, discreteness)), self.probes, self.products)

    def count_above(self, threshold: float) -> Estimate:
        """Number of eigenvalues above a threshold: n times `mass_above`."""
        mass = self.mass_above(threshold)
        return Estimate(mass.value * self.size, mass.stderr * self.size, mass.samples, mass.products)

    def grid(self, cells: int = 2000, scale: GridScale = "symlog", threshold: float | None = None) -> np.ndarray:
        """Edges (cells + 1,) of a grid over the spectrum with a margin of 2 % on either side.

        Parameters
        ----------
        cells
            Number of cells.
        scale
            "linear", or "symlog": equal steps of asinh(x / threshold), linear around 0 and logarithmic far from it.
        threshold
            Where symlog turns from linear to logarithmic; by default the median distance of the mass from 0, or 1e-3
            of the largest magnitude if that is more.
        """
        low, high = self.range
        largest = max(abs(low), abs(high))
        if high - low <= 1e-9 * largest or largest < 1e-300:
            # One eigenvalue only: a window around it.
            low, high = low - 0.5 * (largest or 1.0), high + 0.5 * (largest or 1.0)
        if scale == "linear":
            margin = 0.02 * (high - low)
            return np.linspace(low - margin, high + margin, cells + 1)
        if scale != "symlog":
            raise LandscapeError(f"density grid: scale is {scale!r}; choose linear or symlog")
        knee = self.knee() if threshold is None else threshold
        left, right = np.arcsinh(low / knee), np.arcsinh(high / knee)
        margin = 0.02 * (right - left)
        return np.sinh(np.linspace(left - margin, right + margin, cells + 1)) * knee

    def knee(self) -> float:
        """Where the symlog scale turns: the median of |x| over the mass, at least 1e-3 of the largest |x|."""
        magnitude = np.abs(self.nodes).ravel()
        order = np.argsort(magnitude)
        cumulative = np.cumsum(self.weights.ravel()[order]) / self.probes
        median = magnitude[order][min(int(np.searchsorted(cumulative, 0.5)), len(order) - 1)]
        return float(max(median, 1e-3 * max(np.abs(self.range)))) or 1.0

    def on_grid(self, edges: np.ndarray | None = None, *, resolution: float = 1.0) -> DensityCurve:
        """Draw the density: mean over probes of sum_j w_j N(x; theta_j, sigma_j), averaged over cells.

        Kernels are as wide as they must be and no wider: sigma_j is the node's own residual (a converged eigenvalue is
        sharp, an unresolved stretch of bulk is smooth), at most the distance to the neighbouring node, and at least
        `resolution` cells where the node lies, so an isolated eigenvalue is a peak of some cells of height
        1 / (n sigma (2 pi)^(1/2)). A kernel is cut at the grid's ends and stretched to full mass.

        Parameters
        ----------
        edges
            (c + 1,) increasing; by default `grid()`, symlog with 2000 cells.
        resolution
            Smallest kernel width in cells.

        Raises
        ------
        LandscapeError
            When the edges do not increase or leave a node outside.
        """
        edges = self.grid() if edges is None else np.asarray(edges, dtype=np.float64)
        low, high = self.range
        if edges.ndim != 1 or len(edges) < 2 or not bool((np.diff(edges) > 0).all()):
            raise LandscapeError("density grid: edges must increase; give at least two")
        if edges[0] > low or edges[-1] < high:
            raise LandscapeError(
                f"density grid: the spectrum [{low:.4g}, {high:.4g}] leaves the grid"
                f" [{edges[0]:.4g}, {edges[-1]:.4g}]; widen it"
            )
        cells = np.diff(edges)
        masses = np.zeros((self.probes, len(cells)))
        for probe in range(self.probes):
            held = self.weights[probe] > 0
            nodes, weights = self.nodes[probe, held], self.weights[probe, held]
            floor = resolution * cells[np.clip(np.searchsorted(edges, nodes, side="right") - 1, 0, len(cells) - 1)]
            width = np.maximum(np.minimum(self.residuals[probe, held], spacing(nodes)), floor)
            cumulative = ndtr((edges[:, None] - nodes) / width)
            mass = np.diff(cumulative, axis=0)
            masses[probe] = (mass / mass.sum(axis=0)) @ weights
        masses /= masses.sum(axis=1, keepdims=True)
        density = masses.mean(axis=0) / cells
        if self.probes > 1:
            stderr = masses.std(axis=0, ddof=1) / np.sqrt(self.probes) * widening(self.probes) / cells
        else:
            stderr = np.full(len(cells), np.nan)
        return DensityCurve(
            edges, density, stderr, np.maximum(density - Z * stderr, 0), density + Z * stderr, resolution * cells
        )


def spacing(nodes: np.ndarray) -> np.ndarray:
    """Distance of every node to its nearest neighbour."""
    if len(nodes) < 2:
        return np.zeros(len(nodes))
    order = np.argsort(nodes)
    gaps = np.diff(nodes[order])
    nearest = np.minimum(np.r_[np.inf, gaps], np.r_[gaps, np.inf])
    result = np.empty(len(nodes))
    result[order] = nearest
    return result


def _above(nodes: np.ndarray, widths: np.ndarray, threshold: float) -> np.ndarray:
    """Share of each node's kernel above a threshold; a node of width 0 counts wholly or not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = ndtr((nodes - threshold) / widths)
    return np.where(widths > 0, fraction, nodes > threshold)
