r"""What the choice of images does to an eigenvalue: an interval for the whole population's, and the bias.

To first order :math:`\lambda` moves by :math:`v^\top (\Delta A)\, v` when the images change, so that the spread of the
Rayleigh quotients :math:`v^\top A_b v` of groups of images gives its error. In a trained classifier a few badly fitted
images make up most of the largest eigenvalue: the quotients are skewed, the eigenvalue of few images is too small when
such an image is missing and far too large when one is there, and larger than the population's on average, since the
largest eigenvalue is a convex function of the matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape.compute.settings import measurement
from landscape.metrics import confidence
from landscape.objective import CurvatureOperator, Objective

# Groups of images that the sampling error is computed from; its own relative error is 1 / sqrt(2 (groups - 1)).
GROUPS = 16
# With fewer images, intervals hold less often than stated: 81 to 96 % of them at 48 to 96 images of digits.
FEWEST = 128


@dataclass(frozen=True)
class Sampling:
    """What the choice of images costs each eigenvalue (k,); zero when the sample is the population.

    Attributes
    ----------
    stderr
        First-order standard error, with the finite-population correction :math:`1 - n/N` for *n* of *N* images.
    low, high
        95 % interval of the population's eigenvalue, corrected for the quotients' skewness
        (`landscape.metrics.confidence.skewed`); not a number with fewer than 128 images.
    bias
        How much larger the eigenvalue of these images is than the population's on average, by extrapolation in
        1/n from halves of the images, within the span of the eigenvectors. An average: it says little about one
        sample where `stderr` is larger.
    """

    stderr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bias: np.ndarray

    def variables(self) -> dict[str, object]:
        """Variables of a result, over ``rank``."""
        return {
            "sampling_stderr": _over_rank(self.stderr, "standard error for the choice of images"),
            "eigenvalue_low": _over_rank(self.low, "lower end of the 95 % interval for the choice of images"),
            "eigenvalue_high": _over_rank(self.high, "upper end of the 95 % interval for the choice of images"),
            "sampling_bias": _over_rank(self.bias, "mean excess of so few images over their population"),
        }


def _over_rank(value: np.ndarray, label: str) -> tuple[str, np.ndarray, dict[str, str]]:
    return "rank", value, {"long_name": label, "units": "nats"}


@measurement
def sampling(curvature: CurvatureOperator, values: np.ndarray, vectors: Tensor, *, sample: int = 0) -> Sampling:
    """Error, interval and bias of eigenvalues (k,) with orthonormal eigenvectors (P, k), for one product each.

    Not a number for a single image.
    """
    objective = curvature.objective
    if objective.images == objective.population:
        zero = np.zeros(len(values))
        return Sampling(zero, values.copy(), values.copy(), zero)
    # Groups of the micro-batches' size when there are enough of them to see a spread, smaller ones otherwise; but with
    # statistics of each batch, parts of one are another function.
    whole = objective.has_batch_norm and objective.protocol.batch_norm == "batch"
    size = objective.micro_batch if whole else min(objective.micro_batch, max(1, objective.images // GROUPS))
    mixed = objective if whole else in_random_order(objective)
    if size != objective.micro_batch or mixed is not objective:
        curvature = CurvatureOperator(mixed, curvature.kind, sample=sample, micro_batch=size)
    groups, second, third, rises = _moments(objective, *curvature.batch_projections(vectors))
    correction = 1 - objective.images / objective.population
    unknown = np.full(len(values), np.nan)
    if groups < 2:
        return Sampling(unknown, unknown, unknown, unknown)
    stderr = np.sqrt(second * correction / (groups - 1))
    # The bias is of the order of 1/n, twice as large for half the images; that of n images of N, of 1/n - 1/N.
    bias = correction * rises[np.argsort(np.argsort(-values))]
    if objective.images < FEWEST:
        return Sampling(stderr, unknown, unknown, bias)
    skewness = confidence.adjusted_skewness(second, third, groups)
    ends = [confidence.skewed(*one, groups) for one in zip(values, stderr, skewness, strict=True)]
    low, high = np.array(ends).T
    return Sampling(stderr, low, high, bias)


def in_random_order(objective: Objective) -> Objective:
    """The same function with its examples in an order in which groups of consecutive ones are random."""
    order = objective.random_order()
    return objective if order is None else objective.reordered(order)


def interval(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Ends (rank,) of the eigenvalues' intervals; 95 % from the standard error in older results, which have none."""
    if "eigenvalue_low" in result:
        return result["eigenvalue_low"].values, result["eigenvalue_high"].values
    value, half = result["eigenvalue"].values, confidence.Z * result["sampling_stderr"].values
    return value - half, value + half


def _moments(
    objective: Objective, projections: Tensor, numbers: Tensor, counts: Tensor
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Number of groups, second and third central moments (k,) of their quotients, and rises (k,) from all to half.

    The rises are of the eigenvalues within the span, in descending order, on average over halves of the images.
    """
    reduced: Callable[[Tensor], Tensor] = objective.reduced
    counts = counts.double().to(projections.device)
    shares = counts / reduced(counts.sum())
    groups = round(float(reduced(shares.new_tensor(float(len(counts))))))
    quotients = projections.diagonal(dim1=1, dim2=2)
    mean = reduced(shares @ quotients)
    second, third = (reduced(shares @ (quotients - mean) ** power).cpu().numpy() for power in (2, 3))
    # Walsh functions of the groups' numbers: fifteen ways to halve them, the same however they are distributed.
    bits = torch.arange(1, GROUPS)[:, None] & (numbers % GROUPS)
    odd = torch.stack([bits >> bit & 1 for bit in range(4)]).sum(0) % 2
    total = reduced(torch.einsum("g,gij->ij", shares, projections))
    chosen = odd.to(shares) * shares
    of_half = reduced(torch.einsum("hg,gij->hij", chosen, projections))
    weights = reduced(chosen.sum(1))
    usable = (weights > 0.4) & (weights < 0.6)
    if not bool(usable.any()):
        return groups, second, third, np.full(len(mean), np.nan)
    of_half, weights = of_half[usable], weights[usable][:, None, None]
    halves = torch.cat([of_half / weights, (total - of_half) / (1 - weights)])
    rises = torch.linalg.eigvalsh(halves).mean(0) - torch.linalg.eigvalsh(total)
    return groups, second, third, rises.flip(0).cpu().numpy()
