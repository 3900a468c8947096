r"""The metrics, each defined once, as functions of sums over examples.

Conventions, as in the tables of Park & Kim (ICML 2022, arXiv 2105.12639): *confident* means confidence > 0.9, so that
a confidence of exactly 0.9 is not; bins of confidence are open on the left and closed on the right, so that 0.9 belongs
to (0.8, 0.9] and 1 to (0.9, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

BINS = 10
CUTOFF = 0.9


class MetricValue(NamedTuple):
    """A value and its standard error over the choice of examples."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Sums:
    """Sums over examples, all with the same leading dimensions (none, or one for weightings of the examples).

    Attributes
    ----------
    count, nll, brier, in_top
        (...): number of examples, and sums.
    hits, labels, predictions
        (..., 2, C): correct predictions, labels and predictions of each class; first those with confidence <= 0.9, then
        those above.
    bin_count, bin_correct, bin_confidence
        (..., B): examples, correct ones, and sum of confidences in each bin.
    """

    count: Tensor
    nll: Tensor
    brier: Tensor
    in_top: Tensor
    hits: Tensor
    labels: Tensor
    predictions: Tensor
    bin_count: Tensor
    bin_correct: Tensor
    bin_confidence: Tensor


def without_numbers(sums: Sums, missing: Tensor) -> Sums:
    """The sums, all of them not a number where `missing` (...) says that a prediction is not: so is every metric."""

    def filled(value: Tensor) -> Tensor:
        return value.masked_fill(missing.reshape(missing.shape + (1,) * (value.dim() - missing.dim())), torch.nan)

    return Sums(**{field.name: filled(getattr(sums, field.name)) for field in fields(sums)})


def nll(sums: Sums) -> Tensor:
    """Mean negative log-probability of the label, nats."""
    return sums.nll / sums.count


def accuracy(sums: Sums) -> Tensor:
    """Share of correct predictions."""
    return sums.hits.sum((-2, -1)) / sums.count


def accuracy_90(sums: Sums) -> Tensor:
    """Share of correct ones among predictions with confidence > 0.9; not a number when there are none."""
    return sums.hits[..., 1, :].sum(-1) / sums.labels[..., 1, :].sum(-1)


def uncertain_90(sums: Sums) -> Tensor:
    """Share of confidence <= 0.9 among wrong predictions; not a number when there are none."""
    wrong = (sums.labels - sums.hits).sum(-1)
    return wrong[..., 0] / wrong.sum(-1)


def iou(sums: Sums) -> Tensor:
    """Intersection over union of the sets of examples labelled and predicted as a class; mean over classes present."""
    return _iou(sums.hits.sum(-2), sums.labels.sum(-2), sums.predictions.sum(-2))


def iou_90(sums: Sums) -> Tensor:
    """The same among predictions with confidence > 0.9."""
    return _iou(sums.hits[..., 1, :], sums.labels[..., 1, :], sums.predictions[..., 1, :])


def _iou(hits: Tensor, labels: Tensor, predictions: Tensor) -> Tensor:
    present = labels > 0
    shares = torch.where(present, hits / (labels + predictions - hits), 0.0)
    return shares.sum(-1) / present.sum(-1)


def frequency_90(sums: Sums) -> Tensor:
    """Share of predictions with confidence > 0.9."""
    return sums.labels[..., 1, :].sum(-1) / sums.count


def top5(sums: Sums) -> Tensor:
    """Share of labels among the five most probable classes."""
    return sums.in_top / sums.count


def brier(sums: Sums) -> Tensor:
    """Squared error summed over classes, mean over examples (Brier 1950): 0 to 2."""
    return sums.brier / sums.count


def gaps(sums: Sums) -> Tensor:
    """Sum of confidence minus correctness in each bin (..., B), zero for empty bins."""
    return torch.where(sums.bin_count > 0, sums.bin_confidence - sums.bin_correct, 0.0)


def ece(sums: Sums) -> Tensor:
    r"""Expected calibration error :math:`\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|` over 10 bins."""
    return gaps(sums).abs().sum(-1) / sums.count


def signed_ece(sums: Sums) -> Tensor:
    """Mean of confidence minus accuracy: positive when overconfident."""
    return gaps(sums).sum(-1) / sums.count


@dataclass(frozen=True)
class Metric:
    """One metric: its name in results, its name in print, and which way is better."""

    name: str
    label: str
    of: Callable[[Sums], Tensor]
    better: Literal["lower", "higher", "neither"]
    unit: Literal["nats", "1"] = "1"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("nll", "NLL", nll, "lower", "nats"),
        Metric("accuracy", "accuracy", accuracy, "higher"),
        Metric("accuracy_90", "Acc-90", accuracy_90, "higher"),
        Metric("uncertain_90", "Unc-90", uncertain_90, "higher"),
        Metric("iou", "IoU", iou, "higher"),
        Metric("iou_90", "IoU-90", iou_90, "higher"),
        Metric("frequency_90", "Freq-90", frequency_90, "neither"),
        Metric("top5", "top-5 accuracy", top5, "higher"),
        Metric("brier", "Brier score", brier, "lower"),
        Metric("ece", "ECE", ece, "lower"),
        Metric("signed_ece", "signed ECE", signed_ece, "neither"),
    )
}


def values(sums: Sums) -> dict[str, Tensor]:
    """Every metric (...), by name."""
    return {name: metric.of(sums) for name, metric in METRICS.items()}


def edges(bins: int, device: torch.device) -> Tensor:
    """Inner edges of equal-width bins (bins - 1,) in float32, the precision of comparisons."""
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1].float().to(device)


def bin_of(rounded: Tensor, bins: int) -> Tensor:
    """Number of the bin (lower, upper] of each confidence."""
    return torch.bucketize(rounded, edges(bins, rounded.device)).clamp(max=bins - 1)


def authors_bin_of(rounded: Tensor, bins: int) -> Tensor:
    """Number of the bin [lower, upper) to which the authors' code adds a confidence; `bins` (none) for exactly 1."""
    bin_index = torch.bucketize(rounded, edges(bins, rounded.device), right=True)
    return torch.where(rounded >= 1, bins, bin_index)
