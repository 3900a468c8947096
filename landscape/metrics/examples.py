"""What each example contributes to the metrics, from log-probabilities, in one pass over them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import LandscapeError

TOP = 5


def log_mean_exp(log_probabilities: Tensor, dim: int = 0) -> Tensor:
    r"""Logarithm of the mean of probabilities, :math:`\log \frac1T \sum_t p_t`, without underflow.

    Parameters
    ----------
    log_probabilities
        Any shape; the mean is over `dim`.
    dim
        The axis of the ensemble's members.

    Returns
    -------
    Tensor
        float64, without `dim`: members whose probabilities are below the smallest float still count as what they are.
    """
    return log_probabilities.double().logsumexp(dim) - math.log(log_probabilities.shape[dim])


@dataclass(frozen=True)
class Examples:
    """Per example (N,): what every metric is a sum over.

    Attributes
    ----------
    nll
        Negative log-probability of the label in nats, float64.
    brier
        Squared distance between the probabilities and the label's one-hot vector, float64.
    confidence
        Largest probability, float64; at most 1 exactly.
    predicted
        The class of the largest probability, the first of equals; `classes` where a probability is not a number.
    labels
        int64.
    in_top
        Whether the label is among the five most probable classes; of equals, the first count.
    excess
        How far the probabilities' sum is from 1, float64.
    classes
        Number of classes.
    group
        (N,) int64, 0 to G - 1: the sequence or picture that each prediction is a part of. Groups are then what was
        sampled, and predictions within one depend on each other; None: every prediction is an example by itself.
    """

    nll: Tensor
    brier: Tensor
    confidence: Tensor
    predicted: Tensor
    labels: Tensor
    in_top: Tensor
    excess: Tensor
    classes: int
    group: Tensor | None = None

    @property
    def independent(self) -> int:
        """Number of independent units: groups, or examples."""
        return len(self.nll) if self.group is None else int(self.group.max()) + 1

    def by_group(self, values: Tensor) -> Tensor:
        """Sums over each group (G, ...) of values (N, ...); the values themselves without groups."""
        if self.group is None:
            return values
        total = torch.zeros(self.independent, *values.shape[1:], dtype=values.dtype, device=values.device)
        return total.index_add_(0, self.group, values)

    @property
    def correct(self) -> Tensor:
        """Whether the prediction is the label."""
        return self.predicted == self.labels

    @property
    def rounded(self) -> Tensor:
        """Confidence as float32, the precision in which it is compared with thresholds.

        A softmax in float32 whose confidence is the float32 nearest to 0.9 is then *at* the threshold 0.9 rather than
        2e-8 below it, and the logarithm's own rounding is taken back.
        """
        return self.confidence.float()


def examples(log_probabilities: Tensor, labels: Tensor) -> Examples:
    """Contributions of each example.

    Parameters
    ----------
    log_probabilities
        (N, C), nats; any floating-point type. Thresholds below 0.4 are exact to float32 only when these are float64.
    labels
        (N,) int64 in 0..C - 1, on the same device.

    Raises
    ------
    LandscapeError
        When the shapes do not fit each other.
    """
    if log_probabilities.dim() != 2 or labels.shape != log_probabilities.shape[:1]:
        raise LandscapeError(
            f"metrics take log-probabilities (N, C) and labels (N,), not {tuple(log_probabilities.shape)} "
            f"and {tuple(labels.shape)}: average an ensemble with log_mean_exp first"
        )
    classes = log_probabilities.shape[1]
    logarithms = log_probabilities.double()
    probabilities = logarithms.exp()
    own = logarithms.gather(1, labels[:, None])
    largest, predicted = logarithms.max(1)
    missing = largest.isnan()
    before = (logarithms == own) & (torch.arange(classes, device=labels.device) < labels[:, None])
    rank = ((logarithms > own) | before).sum(1)
    return Examples(
        nll=-own[:, 0],
        brier=probabilities.square().sum(1) - 2 * own[:, 0].exp() + 1,
        # A mean of exponentials may exceed 1 by a rounding error, and would then fall beyond the last bin.
        confidence=largest.exp().clamp(max=1),
        predicted=predicted.masked_fill(missing, classes),
        labels=labels,
        in_top=(rank < TOP) & ~missing,
        excess=(probabilities.sum(1) - 1).abs(),
        classes=classes,
    )
