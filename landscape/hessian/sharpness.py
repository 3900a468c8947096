"""Sharpness that does not depend on the scale of the weights, and the sharpness measures of the literature."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import tables
from landscape.compute.progress import Progress
from landscape.compute.settings import measurement
from landscape.eigen import eigenpairs, trace
from landscape.eigen.operator import Operator
from landscape.errors import LandscapeError
from landscape.hessian.spectrum import show_on
from landscape.hessian.wrapping import Wrapping
from landscape.objective import CurvatureOperator, Objective, filters
from landscape.objective.operators import Kind
from landscape.store.vocabulary import with_unit


def filter_norms(objective: Objective) -> Tensor:
    r"""The diagonal of *D* (P,): each coordinate's filter norm, by the objective's protocol (`filters.norms`)."""
    weights = [weight.double() for weight in objective.weights().parameters]
    return objective.space.flatten(
        norm.expand_as(weight) for norm, weight in zip(filters.norms(objective, weights), weights, strict=True)
    ).to(objective.point)


class ScaledOperator(Wrapping):
    r"""The curvature in other units, :math:`v \mapsto D A D v` with a diagonal *D* >= 0.

    Coordinates where *D* is zero do not move; they add zero eigenvalues.

    Parameters
    ----------
    operator
        The curvature *A*.
    scale
        Diagonal of *D*, (P,).
    """

    def __init__(self, operator: Operator, scale: Tensor) -> None:
        super().__init__(operator)
        self.scale = scale

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply a vector (P,) or columns (P, k)."""
        scale = self.scale if vectors.dim() == 1 else self.scale[:, None]
        return scale * self.operator(scale * vectors)


@measurement
def scale_free_spectrum(
    objective: Objective,
    *,
    top: int = 5,
    operator: Kind = "hessian",
    tolerance: float = 1e-3,
    trace_products: int = 30,
    sample: int = 0,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Top eigenvalues and trace of :math:`D A D`, the curvature in filter-normalised coordinates.

    A step *u* in these coordinates moves each filter by *u* times its own norm. Two networks that compute the same
    function and differ in the scale of their layers (ReLU networks do not change when one layer is multiplied and the
    next divided by a number) have the same :math:`D A D`, not the same *A*: only these eigenvalues can be compared
    between networks whose weights differ in scale. That holds for the loss without its L2 term, which depends on it.

    Parameters
    ----------
    objective
        The function whose curvature is measured; its protocol says what a filter is (`filter_norms`).
    top
        Number of eigenvalues.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the eigenvalues.
    trace_products
        Products spent on the trace.
    sample
        Which draw of the dropout masks.
    seed
        Of starting vectors and probes.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        ``scale_free_eigenvalue`` (rank) with ``scale_free_residual``, ``scale_free_trace`` with
        ``scale_free_trace_stderr``; in nats.

    Raises
    ------
    LandscapeError
        When the protocol leaves no coordinate to move.
    """
    scale = filter_norms(objective)
    if not bool(scale.any()):
        raise LandscapeError(
            "every parameter has one dimension and does not move: give --one-dimensional random, or other --parameters"
        )
    curvature = CurvatureOperator(objective, operator, sample=sample)
    scaled = ScaledOperator(curvature, scale)
    with Progress(None, "scale-free eigenvalues", unit="product", quiet=quiet) as bar:
        pairs = eigenpairs(scaled, top, tolerance=tolerance, seed=seed, keep_space=True, callback=show_on(bar))
        estimate = trace(scaled, products=trace_products, seed=seed, space=pairs.space)
    return xarray.Dataset(
        {
            "scale_free_eigenvalue": ("rank", pairs.values),
            "scale_free_residual": ("rank", pairs.residuals),
            "scale_free_trace": ((), estimate.value),
            "scale_free_trace_stderr": ((), estimate.stderr),
        },
        {"rank": np.arange(1, len(pairs.values) + 1)},
        attrs=curvature.attributes(),
    )


@measurement
def sharpness_measures(
    objective: Objective,
    *,
    epsilon: float = 1e-3,
    radius: float = 0.05,
    adaptive_radius: float = 0.5,
    steps: int = 10,
    directions: Mapping[str, Tensor] | None = None,
    operator: Kind = "hessian",
    sample: int = 0,
) -> xarray.Dataset:
    r"""Rise of the loss in a neighbourhood, gradient norms, and curvature along given directions.

    Every maximum is approached by :math:`\delta \leftarrow \arg\max_{\delta' \in B} g(w + \delta)^\top\delta'`, whose
    first step is the measure's own one-step form, and which never descends where the loss is convex in the
    neighbourhood *B*; the largest rise is reported, so that each number is a lower bound of the maximum.

    Parameters
    ----------
    objective
        The function.
    epsilon
        Of the epsilon-sharpness of Keskar et al. (2017, arXiv 1609.04836, metric 2.1, their default 1e-3):
        :math:`100\,(\max_{|\delta_i| \le \epsilon(|w_i| + 1)} L(w + \delta) - L(w)) / (1 + L(w))`, in percent.
    radius
        :math:`\rho` of SAM (Foret et al. 2021, arXiv 2010.01412; their CIFAR default 0.05):
        :math:`\max_{\lVert\delta\rVert \le \rho} L(w + \delta) - L(w)`.
    adaptive_radius
        The same in filter-normalised coordinates, :math:`\lVert D^{-1}\delta\rVert \le \rho` (ASAM with filter-wise
        normalisation, Kwon et al. 2021, arXiv 2102.11600; their default 0.5): free of scale.
    steps
        Gradients spent on each.
    directions
        Flat vectors (P,) by name along which to compute Rayleigh quotients :math:`v^\top A v / v^\top v`, besides
        those of the gradient and of the weights themselves.
    operator
        Whose quotients.
    sample
        Which draw of the dropout masks, held throughout.

    Returns
    -------
    xarray.Dataset
        ``loss``, ``gradient_norm``, ``scale_free_gradient_norm`` :math:`\lVert D g\rVert`; over ``measure`` (epsilon,
        sam, adaptive_sam): ``rise`` of the loss at the best point and ``first_rise`` of the one-step form, in nats;
        ``epsilon_sharpness`` in percent; ``rayleigh_quotient`` (direction).

    Raises
    ------
    LandscapeError
        When a direction is zero or of another length.
    """
    point = objective.point
    loss = objective.value(sample=sample).loss
    gradient = objective.gradient(sample=sample)
    scale = filter_norms(objective)

    def ball(at: Tensor) -> Tensor:
        return radius * _unit(at)

    def adaptive_ball(at: Tensor) -> Tensor:
        return adaptive_radius * scale * _unit(scale * at)

    def box(at: Tensor) -> Tensor:
        return epsilon * (point.abs() + 1) * at.sign()

    measures = {"epsilon": box, "sam": ball, "adaptive_sam": adaptive_ball}
    rises = [ascent(objective, gradient, step, steps=steps, sample=sample, loss=loss) for step in measures.values()]
    curvature = CurvatureOperator(objective, operator, sample=sample)
    vectors = {"gradient": gradient, "weights": point, **(directions or {})}
    quotients = [rayleigh_quotient(curvature, vector, name) for name, vector in vectors.items()]
    return xarray.Dataset(
        {
            "loss": ((), loss),
            "gradient_norm": ((), float(gradient.double().norm())),
            "scale_free_gradient_norm": ((), float((scale * gradient).double().norm())),
            "rise": ("measure", np.array([max(of_steps) for of_steps in rises])),
            "first_rise": ("measure", np.array([of_steps[0] for of_steps in rises])),
            "epsilon_sharpness": ((), 100 * max(rises[0]) / (1 + loss)),
            "rayleigh_quotient": ("direction", np.array(quotients)),
        },
        {"measure": list(measures), "direction": list(vectors)},
        attrs=curvature.attributes(gradients=1 + len(measures) * (steps - 1)),
    )


def ascent(
    objective: Objective,
    gradient: Tensor,
    farthest: Callable[[Tensor], Tensor],
    *,
    steps: int,
    sample: int,
    loss: float,
) -> list[float]:
    """Rises of the loss at the points of an ascent within a neighbourhood, in order.

    Parameters
    ----------
    objective, sample, loss
        The function, its mask draw, and its value at the start.
    gradient
        At the start.
    farthest
        The point of the neighbourhood farthest along a gradient, relative to the start.
    steps
        Points to try; stops when a point repeats.
    """
    rises = []
    step = farthest(gradient)
    for number in range(steps):
        at = objective.point + step
        rises.append(objective.value(at, sample=sample).loss - loss)
        if number + 1 == steps:
            break
        following = farthest(objective.gradient(at, sample=sample))
        if torch.equal(following, step):
            break
        step = following
    return rises


def rayleigh_quotient(curvature: CurvatureOperator, vector: Tensor, name: str = "the direction") -> float:
    """Curvature v'Av / v'v along a flat vector (P,); raises LandscapeError when it is zero or of another length."""
    if vector.shape != (curvature.size,):
        raise LandscapeError(f"{name} has shape {tuple(vector.shape)}: give a flat vector ({curvature.size},)")
    if not bool(vector.any()):
        raise LandscapeError(f"{name} is zero: there is no curvature along it")
    unit = _unit(vector).to(dtype=curvature.dtype, device=curvature.device)
    return float((unit * curvature(unit)).sum(dtype=torch.float64) / unit.double().square().sum())


def _unit(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    return vector / length if bool(length > 0) else vector


_LABELS = {
    "loss": "regularised loss",
    "gradient_norm": "gradient norm",
    "scale_free_gradient_norm": "gradient norm, scale-free",
    "epsilon_sharpness": "epsilon-sharpness, %",
}


def table(results: Sequence[xarray.Dataset]) -> str:
    """Sharpness measures side by side."""
    rows: list[tables.Row] = []
    if all("scale_free_eigenvalue" in result for result in results):
        cell = tables.value("scale_free_eigenvalue", error="scale_free_residual")
        rows += tables.by_rank(results, "scale-free eigenvalue", cell)
        rows.append(("scale-free trace", tables.value("scale_free_trace", error="scale_free_trace_stderr")))
    if all("rise" in result for result in results):
        rows += [(label, tables.value(name)) for name, label in _LABELS.items()]
        for name, label in (("sam", "SAM"), ("adaptive_sam", "adaptive SAM")):
            rows.append((f"{label} sharpness, one step", tables.value("first_rise", measure=name)))
            rows.append((f"{label} sharpness, best found", tables.value("rise", measure=name)))
        for direction in results[0]["direction"].values:
            if all(direction in result["direction"] for result in results):
                rows.append((f"curvature along {direction}", tables.value("rayleigh_quotient", direction=direction)))
    rows.append(("products", tables.attribute("products")))
    notes = [
        "scale-free: in units of each filter's norm, comparable between networks of different scale; ± is a bound for "
        "eigenvalues, one standard error for the trace.",
        f"sharpness: rise of the {with_unit('loss', results)} at the worst point found in the neighbourhood.",
    ]
    return tables.side_by_side(results, rows, notes)
