"""Numbers about a surface: how flat, how rough, how sure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray
from scipy.interpolate import CubicSpline, RectBivariateSpline, RegularGridInterpolator

from landscape.errors import LandscapeError
from landscape.metrics import confidence
from landscape.surface.persistence import barcode

# Radii in shares of the largest circle that fits the surface.
RADII = (0.25, 0.5, 0.75, 1.0)
_ANGLES = 64
# A local fit by cubics on 5 cells per axis: the smallest window in which a smooth part can be told from roughness.
_WINDOW = 5
_DEGREE = 3


@dataclass(frozen=True)
class Rise:
    """How much the loss rises on a circle around the origin.

    Attributes
    ----------
    radius
        In the surface's coordinates.
    mean
        Over the circle (over both ends, on a line), nats.
    stderr
        For the choice of examples; errors around the circle are taken as fully correlated, since all cells see the
        same examples.
    low, high
        95 % interval of `mean`, likewise; not a number where a cell has none.
    lowest, highest
        On the circle.
    """

    radius: float
    mean: float
    stderr: float
    low: float
    high: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Summary:
    r"""Numbers about one surface, lengths in its coordinates, heights in nats.

    Attributes
    ----------
    origin, minimum, maximum
        Of the loss over finite cells; `origin` is not a number when the origin is not a cell.
    rises
        At several radii.
    curvature
        Second derivatives along the axes at the origin, from the surface (fourth-order differences).
    rayleigh
        The same by Hessian-vector products, where they were measured.
    anisotropy
        Ratio of the larger principal curvature in the plane at the origin to the smaller; infinite when that is not
        positive.
    roughness
        Root mean square of what local cubic fits leave, in nats, without the Monte-Carlo error that the cells state;
        `roughness_share` of the range of the loss.
    monte_carlo
        Root mean square standard error of the cells over mask draws; not a number when draws are fresh and there is one
        per cell, and roughness then contains it.
    nonconvex_share
        Share of cells whose Hessian has a negative eigenvalue beyond its error (needs the curvature map).
    nonconvex_in_plane
        Share of inner cells where the surface itself, by second differences, is not convex.
    basins, total_persistence
        Of the barcode: minima behind barriers higher than the error of the rise, and the sum of all barriers.
    barrier
        Height of the loss above the straight line between two networks at its highest point, where the surface is
        that line.
    nonfinite
        Number of cells that are not finite.
    """

    origin: float
    minimum: float
    maximum: float
    rises: list[Rise]
    curvature: list[float]
    rayleigh: list[float]
    anisotropy: float
    roughness: float
    roughness_share: float
    monte_carlo: float
    nonconvex_share: float
    nonconvex_in_plane: float
    basins: int
    total_persistence: float
    barrier: float
    nonfinite: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summarize(surface: xarray.Dataset, variable: str = "loss") -> Summary:
    """Numbers about a line or plane as `landscape.surface.plane` gives it."""
    values = surface[variable].values
    finite = np.isfinite(values)
    if not finite.any():
        raise LandscapeError("no cell of the surface is finite: give a smaller --span")
    low, high = float(values[finite].min()), float(values[finite].max())
    axes = [surface[name].values for name in surface[variable].dims]
    matrix = plane_curvature(surface, variable)
    rough, noise = roughness(surface, variable)
    bars = barcode(values)
    errors = surface["rise_stderr"].values if "rise_stderr" in surface else np.zeros(1)
    # One example has no standard error.
    level = float(np.median(errors[np.isfinite(errors)])) if np.isfinite(errors).any() else 0.0
    return Summary(
        origin=_origin(values, axes),
        minimum=low,
        maximum=high,
        rises=rises(surface, variable),
        curvature=np.diag(matrix).tolist(),
        rayleigh=surface["rayleigh"].values.tolist() if "rayleigh" in surface else [],
        anisotropy=_anisotropy(matrix),
        roughness=rough,
        roughness_share=rough / (high - low) if high > low else 0.0,
        monte_carlo=noise,
        nonconvex_share=_nonconvex_share(surface),
        nonconvex_in_plane=_nonconvex_in_plane(values, axes),
        basins=bars.longer_than(level),
        total_persistence=bars.total,
        barrier=barrier(surface, variable),
        nonfinite=int((~finite).sum()),
    )


def _origin(values: np.ndarray, axes: Sequence[np.ndarray]) -> float:
    places = [np.flatnonzero(axis == 0) for axis in axes]
    return float(values[tuple(int(index[0]) for index in places)]) if all(len(p) for p in places) else math.nan


def rises(surface: xarray.Dataset, variable: str = "loss", shares: Sequence[float] = RADII) -> list[Rise]:
    """Mean rise on circles around the origin, by cubic interpolation between cells; empty without the origin inside."""
    values = surface[variable].values
    axes = [surface[name].values for name in surface[variable].dims]
    reach = min(min(-axis[0], axis[-1]) for axis in axes)
    if not reach > 0 or any(len(axis) < 4 for axis in axes):
        return []
    height = _interpolant(axes, values)
    error, below, above = (_error(surface, name, axes) for name in ("rise_stderr", "rise_low", "rise_high"))
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) if len(axes) == 2 else np.array([[1.0], [-1.0]])
    base = float(height(np.zeros((1, len(axes))))[0])
    circles = []
    for fraction in shares:
        on = circle * (fraction * reach)
        up = height(on) - base
        circles.append(
            Rise(
                radius=float(fraction * reach),
                mean=float(up.mean()),
                stderr=float(error(on).mean()),
                low=float(up.mean() + below(on).mean()),
                high=float(up.mean() + above(on).mean()),
                lowest=float(up.min()),
                highest=float(up.max()),
            )
        )
    return circles


def _error(surface: xarray.Dataset, name: str, axes: Sequence[np.ndarray]) -> RegularGridInterpolator:
    """A standard error of the rise, or the distance of an end of its interval from it; not a number without."""
    if name not in surface:
        return RegularGridInterpolator(axes, np.full([len(axis) for axis in axes], np.nan))
    height = 0.0 if name.endswith("_stderr") else surface["rise"].values
    return RegularGridInterpolator(axes, surface[name].values - height, method="linear")


def _interpolant(axes: Sequence[np.ndarray], values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Values at places (n, d): cubic splines, which are exact for cubics."""
    if not np.isfinite(values).all():
        # A spline carries a value that is not finite everywhere; straight lines keep it where it is.
        return RegularGridInterpolator(axes, values, method="linear")
    if values.ndim == 1:
        curve = CubicSpline(axes[0], values)
        return lambda places: np.asarray(curve(places[:, 0]))
    sheet = RectBivariateSpline(axes[0], axes[1], values)
    return lambda places: np.asarray(sheet.ev(places[:, 0], places[:, 1]))


def plane_curvature(surface: xarray.Dataset, variable: str = "loss") -> np.ndarray:
    """Second derivatives (d, d) at the cell of the origin, by differences of fourth order where the lattice allows."""
    values = surface[variable].values
    axes = [surface[name].values for name in surface[variable].dims]
    count = len(axes)
    matrix = np.full((count, count), np.nan)
    places = [np.flatnonzero(axis == 0) for axis in axes]
    if not all(len(index) for index in places):
        return matrix
    centre = [int(index[0]) for index in places]
    if any(not 0 < index < len(axis) - 1 for index, axis in zip(centre, axes, strict=True)):
        return matrix
    steps = [float(axis[1] - axis[0]) for axis in axes]

    def at(*moves: int) -> float:
        return float(values[tuple(index + move for index, move in zip(centre, moves, strict=True))])

    for axis in range(count):
        unit = np.eye(count, dtype=int)[axis]
        near = at(*unit) - 2 * at(*(0 * unit)) + at(*-unit)
        if 2 <= centre[axis] < len(axes[axis]) - 2:
            far = at(*(2 * unit)) - 2 * at(*(0 * unit)) + at(*(-2 * unit))
            near = (16 * near - far) / 12
        matrix[axis, axis] = near / steps[axis] ** 2
    if count == 2:
        mixed = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * steps[0] * steps[1])
        matrix[0, 1] = matrix[1, 0] = mixed
    return matrix


def _anisotropy(matrix: np.ndarray) -> float:
    if len(matrix) < 2 or not np.isfinite(matrix).all():
        return math.nan
    small, large = np.linalg.eigvalsh(matrix)
    return float(large / small) if small > 0 else math.inf


def roughness(surface: xarray.Dataset, variable: str = "loss") -> tuple[float, float]:
    r"""Roughness, and the Monte-Carlo error that was taken out of it, both root mean squares in nats.

    In every 5 x 5 window (5 cells on a line) a cubic is fitted; the residual *r* of the middle cell, whose leverage is
    *h*, has variance :math:`\sigma^2 (1 - h)` when cells deviate independently from a smooth surface by
    :math:`\sigma`, so that the mean of :math:`r^2 / (1 - h)` estimates :math:`\sigma^2`.
    """
    values = surface[variable].values
    noise = math.nan
    if "mask_stderr" in surface:
        noise = float(np.sqrt(np.nanmean(np.square(surface["mask_stderr"].values))))
    elif surface.attrs.get("dropout", "off") != "fresh":
        noise = 0.0
    residuals, leverage = _residuals(values)
    residuals = residuals[np.isfinite(residuals)]
    if len(residuals) == 0:
        return math.nan, noise
    variance = float(np.mean(residuals**2) / (1 - leverage))
    known = noise if math.isfinite(noise) else 0.0
    return math.sqrt(max(variance - known**2, 0.0)), noise


def _residuals(values: np.ndarray, axes: int | None = None) -> tuple[np.ndarray, float]:
    """Residual (windows, ...) of the middle cell of every window of a lattice, and its leverage.

    The lattice is the first `axes` dimensions, all by default; empty where it is smaller than a window.
    """
    axes = values.ndim if axes is None else axes
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    grids = np.stack(np.meshgrid(*[offsets] * axes, indexing="ij"), -1).reshape(-1, axes)
    powers = [p for p in np.ndindex((_DEGREE + 1,) * axes) if sum(p) <= _DEGREE]
    design = np.stack([np.prod(grids ** np.array(power), axis=1) for power in powers], axis=1).astype(float)
    projection = design @ np.linalg.pinv(design)
    middle = len(grids) // 2
    leverage = float(projection[middle, middle])
    rest = values.shape[axes:]
    if min(values.shape[:axes]) < _WINDOW:
        return np.empty((0, *rest)), leverage
    windows = np.lib.stride_tricks.sliding_window_view(values, (_WINDOW,) * axes, axis=tuple(range(axes)))
    fit = np.tensordot(windows, projection[middle].reshape((_WINDOW,) * axes), axes=axes)
    inner = tuple(slice(_WINDOW // 2, length - _WINDOW // 2) for length in values.shape[:axes])
    return np.asarray(values[inner] - fit).reshape(-1, *rest), leverage


def rise_of_images(surface: xarray.Dataset, fraction: float = 0.5) -> np.ndarray:
    """Mean rise of each image's own loss on the circle of `rises`, (N,) nats: their mean is that of the loss.

    Needs ``loss_of_image``; the L2 term is left out.
    """
    lattice = surface[["loss_of_image"]]
    images = (lattice.isel(image=image) for image in range(lattice.sizes["image"]))
    rises_of_image = [rises(image, "loss_of_image", (fraction,)) for image in images]
    return np.array([one[0].mean if one else math.nan for one in rises_of_image])


def roughness_influence(surface: xarray.Dataset) -> np.ndarray:
    r"""How each image moves the logarithm of the roughness, (N,): its influence function, mean zero.

    With :math:`\sigma^2` the mean of :math:`r_w^2 / (1 - h)` over windows and :math:`r_{iw}` the residual of image *i*
    in window *w*, :math:`(\langle r_w r_{iw} \rangle_w - \langle r_w^2 \rangle_w) / ((1 - h)\,\sigma^2)`; the
    Monte-Carlo error that `roughness` takes out is held fixed. (Drawing images again would add their noise to the
    surface a second time, of which roughness under fresh masks largely consists.)
    """
    rough, _ = roughness(surface)
    own, leverage = _residuals(surface["loss_of_image"].values.astype(float), surface["loss"].ndim)
    whole, _ = _residuals(surface["loss"].values)
    usable = np.isfinite(whole) & np.isfinite(own).all(1)
    if not rough > 0 or not usable.any():
        return np.full(own.shape[-1], math.nan)
    of_image = (whole[usable, None] * own[usable]).mean(0) / (1 - leverage)
    return np.asarray((of_image - of_image.mean()) / rough**2)


def _nonconvex_share(surface: xarray.Dataset) -> float:
    if "smallest_eigenvalue" not in surface:
        return math.nan
    smallest, error = surface["smallest_eigenvalue"].values, surface["smallest_residual"].values
    finite = np.isfinite(smallest)
    return float((smallest[finite] + error[finite] < 0).mean()) if finite.any() else math.nan


def _nonconvex_in_plane(values: np.ndarray, axes: Sequence[np.ndarray]) -> float:
    if any(len(axis) < 3 for axis in axes):
        return math.nan
    steps = [float(axis[1] - axis[0]) for axis in axes]
    with np.errstate(invalid="ignore"):
        if values.ndim == 1:
            smallest = np.diff(values, 2) / steps[0] ** 2
        else:
            inner = values[1:-1, 1:-1]
            first = (values[2:, 1:-1] - 2 * inner + values[:-2, 1:-1]) / steps[0] ** 2
            second = (values[1:-1, 2:] - 2 * inner + values[1:-1, :-2]) / steps[1] ** 2
            corners = values[2:, 2:] - values[2:, :-2] - values[:-2, 2:] + values[:-2, :-2]
            mixed = corners / (4 * steps[0] * steps[1])
            smallest = (first + second) / 2 - np.sqrt(((first - second) / 2) ** 2 + mixed**2)
    finite = np.isfinite(smallest)
    # Differences of nearly equal numbers: what rounding alone may bring is not curvature.
    scale = np.finfo(np.float32).eps * np.abs(values[np.isfinite(values)]).max() / min(steps) ** 2
    return float((smallest[finite] < -scale).mean()) if finite.any() else math.nan


def barrier(surface: xarray.Dataset, variable: str = "loss") -> float:
    """Highest loss above the straight line between coordinates 0 and 1 (Frankle et al. 2020, arXiv 1912.05671).

    Not a number where the surface is not a line between networks, or does not reach from one to the other.
    """
    if surface.attrs.get("direction_kind") != "between":
        return math.nan
    places, values = surface["alpha"].values, surface[variable].values
    if places[0] > 0 or places[-1] < 1:
        return math.nan
    start, end = (float(np.interp(index, places, values)) for index in (0.0, 1.0))
    inside = (places >= 0) & (places <= 1)
    return float(np.max(values[inside] - (start + (end - start) * places[inside]))) if inside.any() else math.nan


def spread(summaries: Sequence[Summary]) -> dict[str, dict[str, float]]:
    """Mean over several planes of each number, its 95 % interval corrected for skewness, and their deviation."""
    rows: dict[str, list[float]] = {}
    for summary in summaries:
        facts = summary.to_dict()
        for name in ("minimum", "maximum", "anisotropy", "roughness", "nonconvex_in_plane", "total_persistence"):
            rows.setdefault(name, []).append(float(facts[name]))
        for rise in summary.rises:
            rows.setdefault(f"rise at {rise.radius:g}", []).append(rise.mean)
        for index, value in enumerate(summary.curvature):
            rows.setdefault(f"curvature {index + 1}", []).append(value)
    statistics = {}
    for name, entries in rows.items():
        values = np.array(entries)
        # A ratio of curvatures may be infinite on some plane; its spread then is undefined, and said so by NaN.
        with np.errstate(invalid="ignore"):
            low, high = confidence.of_mean(values)
            statistics[name] = {
                "mean": float(values.mean()),
                "low": float(low),
                "high": float(high),
                "deviation": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                "planes": float(len(values)),
            }
    return statistics
