"""One look at the curvature where a network in training stands, warm-started from the last one."""

import math
from functools import partial

import torch
from torch import Tensor

from landscape.eigen import WarmStarts, trace
from landscape.eigen.operator import Operator, SymmetricOperator, together
from landscape.hessian.sharpness import ScaledOperator
from landscape.monitor.optimizers import State, further_solves
from landscape.objective import CurvatureOperator, Objective

# Products of a first, cold solve: the largest eigenvalue is there after about 8, the smallest near.
_COLD = 20
# Wanted relative error of a cold solve; warm ones spend their products and state what they reached.
_TOLERANCE = 1e-2


class Decayed(SymmetricOperator):
    """The curvature with weight decay in it: v -> A v + d v, d a number or one number per coordinate (P,)."""

    def __init__(self, operator: Operator, decay: float | Tensor) -> None:
        self.operator, self.decay = operator, decay
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def together(self, rows: int = 0) -> int:
        """As many as the operator itself."""
        return together(self.operator, rows)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply a vector (P,) or columns (P, k)."""
        decay = self.decay
        if isinstance(decay, Tensor) and vectors.dim() == 2:
            decay = decay[:, None]
        return self.operator(vectors) + decay * vectors


def cold_products(optimizer: object, trace_products: int) -> int:
    """Products, at most, of a first measurement, whose solves start from nothing; a gradient counts as one."""
    return (2 + further_solves(optimizer)) * _COLD + trace_products + 2


def measure(
    objective: Objective, state: State, warm: WarmStarts, *, products: int, trace_products: int, seed: int
) -> dict[str, float]:
    """Every number of one measurement, by name; `warm` is brought up to date.

    Parameters
    ----------
    objective
        Mean loss over the examples, without weight decay.
    state
        Of the optimizer.
    warm
        Starting vectors.
    products
        For each extreme eigenvalue.
    trace_products
        For the trace; 0 for none.
    seed
        Of this measurement's random vectors.
    """
    point = objective.point
    decay = state.decay
    l2 = float((decay * point.double().square()).sum() / 2)
    loss = objective.value().loss
    of_data = objective.gradient()
    gradient = of_data + decay * point
    length = float(torch.linalg.vector_norm(gradient.double()))
    numbers = {
        "loss": loss + l2,
        "data_loss": loss,
        "l2": l2,
        "gradient_norm": length,
        "learning_rate": state.learning_rate,
        "two_over_learning_rate": _over(2, state.learning_rate),
        "stability_threshold": state.threshold,
    }
    curvature = CurvatureOperator(objective)
    decayed = Decayed(curvature, decay)
    solve = partial(warm.solve, products=products, cold_products=_COLD, tolerance=_TOLERANCE, seed=seed)
    pairs, lowest = solve(decayed, "largest"), solve(decayed, "smallest", which="SA")
    numbers |= {
        "largest_eigenvalue": float(pairs.values[0]),
        "largest_residual": float(pairs.residuals[0]),
        "smallest_eigenvalue": float(lowest.values[0]),
        "smallest_residual": float(lowest.residuals[0]),
    }
    if trace_products:
        estimate = trace(decayed, products=trace_products, seed=seed, space=pairs.space)
        numbers |= {"trace": estimate.value, "trace_stderr": estimate.stderr}
    del pairs, lowest
    if state.scale is not None:
        scaled = solve(ScaledOperator(decayed, state.scale), "preconditioned")
        numbers |= {
            "preconditioned_sharpness": float(scaled.values[0]),
            "preconditioned_residual": float(scaled.residuals[0]),
        }
    elif state.preconditioned:
        numbers |= {
            "preconditioned_sharpness": numbers["largest_eigenvalue"],
            "preconditioned_residual": numbers["largest_residual"],
        }
    total = curvature.products
    # Weight decay enters the gradient in the optimizer, behind SAM's step up.
    ascent_length = float(torch.linalg.vector_norm(of_data.double()))
    if state.radius is not None and ascent_length > 0:
        step = _ascent(point, of_data, state.radius, state.adaptive)
        perturbed = CurvatureOperator(objective, point=point + step)
        ends = solve(Decayed(perturbed, decay), "perturbed")
        moved = objective.value(point + step).loss + float((decay * (point + step).double().square()).sum() / 2)
        numbers |= {
            "perturbed_sharpness": float(ends.values[0]),
            "perturbed_residual": float(ends.residuals[0]),
            "perturbed_rise": moved - numbers["loss"],
            "sam_threshold": _sam_threshold(state, ascent_length),
        }
        total += perturbed.products
    return numbers | {"products": float(total)}


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator != 0 else math.inf


def _ascent(point: Tensor, gradient: Tensor, radius: float, adaptive: bool) -> Tensor:
    """SAM's step to the worst point of a ball (Foret et al. 2021), or ASAM's of an ellipsoid (Kwon et al. 2021)."""
    if not adaptive:
        return gradient * (radius / gradient.norm())
    return point.square() * gradient * (radius / (point * gradient).norm())


def _sam_threshold(state: State, length: float) -> float:
    r"""Largest curvature at which SAM with plain gradient descent is stable (Long and Bartlett 2024, arXiv 2309.12488).

    .. math:: \frac{\lVert g\rVert}{2\rho}\left(\sqrt{1 + \frac{8\rho}{\eta\lVert g\rVert}} - 1\right)
    """
    if state.radius is None or state.radius <= 0 or state.adaptive or state.momentum or not state.learning_rate > 0:
        return math.nan
    return length / (2 * state.radius) * (math.sqrt(1 + 8 * state.radius / (state.learning_rate * length)) - 1)
